"""Prepared files, written by hand in the tutorial's layout, as samples and batches."""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import Prepared
from ranks import forkserver_context

from sat.data.dataloader import CaptionBatchSampler, collate, evaluation_loader, training_loader
from sat.data.dataset import MIRRORED, CaptionDataset, find_data_name
from sat.data.vocabulary import Vocabulary

Write = Callable[..., Prepared]


def opened(data: Prepared, **options: object) -> CaptionDataset:
    return CaptionDataset(data.folder, data.name, "train", **options)


def test_dataset_item_is_a_caption_with_its_image(prepared: Write) -> None:
    data = prepared()
    dataset = opened(data)
    assert len(dataset) == 30
    assert (dataset.captions_per_image, dataset.num_images, dataset.image_size) == (5, 6, 8)
    for i, sample in enumerate(dataset[j] for j in range(30)):
        assert sample.index == i // 5
        assert sample.image.dtype == torch.uint8
        assert np.array_equal(sample.image.numpy(), data.images[i // 5])
        assert sample.caption.dtype == torch.int64
        assert sample.caption.tolist() == data.captions[i]
        assert sample.length == data.lengths[i]
    assert torch.equal(dataset[-1].image, dataset[29].image)
    with pytest.raises(IndexError, match="caption 30 of 30"):
        dataset[30]


def test_dataset_of_another_split_reads_its_files(prepared: Write) -> None:
    data = prepared(images=3, per_image=2, split="TEST", seed=4)
    dataset = CaptionDataset(data.folder, data.name, "test")
    assert [dataset[i].caption.tolist() for i in range(6)] == data.captions
    with pytest.raises(
        FileNotFoundError, match=r"VAL_CAPTIONS_\S+ does not exist: run sat-prepare"
    ):
        CaptionDataset(data.folder, data.name, "val")
    with pytest.raises(ValueError, match="split is 'dev': choose one of train, val, test"):
        CaptionDataset(data.folder, data.name, "dev")


def test_dataset_resize_without_attribute_is_squash(prepared: Write) -> None:
    assert opened(prepared()).resize == "squash"
    assert opened(prepared(resize="crop")).resize == "crop"


def test_dataset_with_transform_applies_it_to_pixels(prepared: Write) -> None:
    data = prepared()
    dataset = opened(data, transform=lambda image: image.float() / 255)
    expected = data.images[2].astype(np.float32) / np.float32(255)
    assert np.array_equal(dataset[10].image.numpy(), expected)


def test_dataset_mirrored_view_is_flipped(prepared: Write) -> None:
    data = prepared()
    dataset = opened(data)
    assert np.array_equal(dataset[7, MIRRORED].image.numpy(), data.images[1][:, :, ::-1])
    assert torch.equal(dataset[7, 0].image, dataset[7].image)
    assert torch.equal(dataset[7, MIRRORED].caption, dataset[7].caption)


def test_references_without_file_decode_captions_and_warn(
    prepared: Write, caplog: pytest.LogCaptureFixture
) -> None:
    data = prepared(images=2)
    vocabulary = Vocabulary(data.word_map)
    found = opened(data).references(vocabulary)
    assert "TRAIN_REFERENCES" in caplog.text
    assert "not as written" in caplog.text
    words = {number: word for word, number in data.word_map.items()}
    for i, image in enumerate(found):
        lines = zip(data.captions[5 * i : 5 * i + 5], data.lengths[5 * i : 5 * i + 5])
        spelled = [" ".join(words[n] for n in line[1 : length - 1]) for line, length in lines]
        assert image["image_id"] == i
        assert image["captions"] == list(dict.fromkeys(spelled))


def test_references_with_file_are_its_captions(
    prepared: Write, caplog: pytest.LogCaptureFixture
) -> None:
    data = prepared(images=1)
    written = [{"image_id": 42, "file_name": "x.jpg", "captions": ["A zebra!"]}]
    data.path("REFERENCES", ".json").write_text(json.dumps({"images": written}))
    with caplog.at_level(logging.WARNING):
        assert opened(data).references(Vocabulary(data.word_map)) == written
    assert not caplog.text


def test_references_scored_by_tokens_are_the_tokens(prepared: Write) -> None:
    data = prepared(images=1)
    image = {"image_id": 42, "file_name": "x.jpg", "captions": ["一只狗。"], "tokens": ["一 只 狗"]}
    text = json.dumps({"images": [image], "scored": "tokens"})
    data.path("REFERENCES", ".json").write_text(text)
    (found,) = opened(data).references(Vocabulary(data.word_map))
    assert found == image | {"captions": ["一 只 狗"]}


def test_dataset_prepared_without_test_split_says_so(prepared: Write) -> None:
    data = prepared()
    with pytest.raises(FileNotFoundError, match="was prepared without a test split: choose val"):
        CaptionDataset(data.folder, data.name, "test")


def test_collate_cuts_captions_to_the_longest(prepared: Write) -> None:
    data = prepared()
    dataset = opened(data)
    chosen = [3, 17, 8, 29]
    batch = collate([dataset[i] for i in chosen])
    longest = max(data.lengths[i] for i in chosen)
    assert longest < 12
    assert batch.captions.tolist() == [data.captions[i][:longest] for i in chosen]
    assert batch.lengths.tolist() == [data.lengths[i] for i in chosen]
    assert batch.indices.tolist() == [0, 3, 1, 5]
    assert batch.images.dtype == torch.uint8
    assert np.array_equal(batch.images.numpy(), data.images[[0, 3, 1, 5]])


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_training_loader_with_workers_reads_the_same(prepared: Write, method: str) -> None:
    data = prepared(images=20)
    dataset = opened(data)
    batches = CaptionBatchSampler(dataset.lengths, 16, mirror=True, seed=3)
    alone = list(training_loader(dataset, batches))  # and leaves the file open in this process
    loader = training_loader(dataset, batches, workers=2)
    loader.multiprocessing_context = forkserver_context() if method == "forkserver" else method
    for batch, expected in zip(loader, alone, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch[:-1], expected[:-1], strict=True))


def test_evaluation_loader_reads_every_image_once_in_order(prepared: Write) -> None:
    data = prepared()
    batches = list(evaluation_loader(opened(data), 4))
    assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5]]
    assert np.array_equal(torch.cat([batch.images for batch in batches]).numpy(), data.images)


@pytest.mark.parametrize("workers", [0, 1])
def test_loaders_leave_the_global_random_state_unchanged(prepared: Write, workers: int) -> None:
    dataset = opened(prepared())
    before = torch.get_rng_state()
    list(training_loader(dataset, CaptionBatchSampler(dataset.lengths, 16), workers=workers))
    list(evaluation_loader(dataset, 4, workers=workers))
    assert torch.equal(torch.get_rng_state(), before)


def test_dataset_after_pickling_opens_its_own_file(prepared: Write) -> None:
    data = prepared()
    dataset = opened(data)
    dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))
    assert not any(isinstance(value, h5py.File) for value in copy.__dict__.values())
    assert np.array_equal(copy[5].image.numpy(), data.images[1])
    assert np.array_equal(dataset[5].image.numpy(), data.images[1])  # and the first still reads


def test_dataset_in_another_process_opens_the_file_again(
    prepared: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 handles do not survive a fork; mixed-up reads of workers are too rare to wait for."""
    data = prepared()
    dataset = opened(data)
    opens, real = [], h5py.File
    monkeypatch.setattr(h5py, "File", lambda *given: opens.append(given) or real(*given))
    for process, expected in ((os.getpid(), 1), (os.getpid(), 1), (-1, 2), (-1, 2)):
        monkeypatch.setattr("sat.data.dataset.os.getpid", lambda process=process: process)
        assert np.array_equal(dataset[0].image.numpy(), data.images[0])
        assert len(opens) == expected


def test_dataset_with_inconsistent_files_raises(prepared: Write) -> None:
    data = prepared()
    data.path("CAPLENS", ".json").write_text(json.dumps(data.lengths[:-1]))
    with pytest.raises(ValueError, match="30 captions, 29 lengths, but 6 images of 5 captions"):
        opened(data)
    data.path("CAPTIONS", ".json").write_text(json.dumps(data.captions[:-5]))
    data.path("CAPLENS", ".json").write_text(json.dumps(data.lengths[:-5]))
    with pytest.raises(ValueError, match="25 captions, 25 lengths, but 6 images of 5 captions"):
        opened(data)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "[[9, 1, 10], [9, 10]]",
        "[[9, 10], [9, 1, 2, 10]]",
        '[["a", "b"], ["c", "d"]]',
        "[[9, 1, 10], [9, 2, 1",
        "[[9, 1, 10], [9, 2, 1]",
        "[[9, 1.5, 10], [9, 2, 10]]",
        "[[9, null, 10], [9, 2, 10]]",
        "[9, 1, 10]",
        "[[[9, 10]], [[9, 10]]]",
    ],
)
def test_dataset_with_a_malformed_captions_file_raises(prepared: Write, text: str) -> None:
    data = prepared(images=1, per_image=2)
    data.path("CAPTIONS", ".json").write_text(text)
    with pytest.raises(ValueError, match="is not a list of captions of one length: prepare"):
        opened(data)


def test_find_data_name_with_one_data_set_returns_it(prepared: Write, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds 0 prepared data sets \(none\): run sat-prepare"):
        find_data_name(tmp_path)
    assert find_data_name(prepared().folder) == "toy_5_cap_per_img_1_min_word_freq"
    prepared(per_image=2)
    with pytest.raises(ValueError, match=r"holds 2 .*toy_2.*, toy_5.*: pass one as --data_name"):
        find_data_name(tmp_path)


def test_dataset_getitems_reads_a_shared_image_once(
    prepared: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = opened(prepared())
    indices = [(5, 0), (6, 0), (7, 1), (0, 1), (5, 0), 29]
    expected, read = [dataset[i] for i in indices], []
    real = CaptionDataset.image

    def counted(self: CaptionDataset, index: int, view: int = 0) -> torch.Tensor:
        read.append((index, view))
        return real(self, index, view)

    monkeypatch.setattr(CaptionDataset, "image", counted)
    for sample, alone in zip(dataset.__getitems__(indices), expected, strict=True):
        assert all(
            torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(sample, alone)
        )
    assert read == [(1, 0), (1, 1), (0, 1), (1, 0), (5, 0)]
    batch = collate(dataset.__getitems__([(5, 0), (6, 0), (20, 1), (21, 1)]), group_size=2)
    assert torch.equal(batch.images, torch.stack([dataset[5].image, dataset[20, 1].image]))
    assert batch.indices.tolist() == [1, 4]
    assert len(batch.captions) == len(batch.lengths) == 4
