"""Features written once to disk against features encoded there and then."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from conftest import Prepared
from torch import Tensor, nn

from sat.config.model import Preprocessing
from sat.data.dataloader import CaptionBatchSampler, evaluation_loader, training_loader
from sat.data.dataset import MIRRORED, CaptionDataset
from sat.training.feature_cache import cache_features, cache_key

Write = Callable[..., Prepared]


class Encode:
    """A stand-in for an encoder: pixels as regions, counted calls."""

    calls = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.float().flatten(2).transpose(1, 2) / 7  # (B, 64, 3)


def expected(images: np.ndarray) -> Tensor:
    pixels = torch.from_numpy(images.copy()).float()
    return (pixels.flatten(2).transpose(1, 2) / 7).half()


@pytest.mark.parametrize("workers", [0, 1])
def test_cached_features_are_those_encoded_directly(prepared: Write, workers: int) -> None:
    data = prepared(images=7)
    dataset = CaptionDataset(data.folder, data.name, "train")
    path = cache_features(Encode(), dataset, "key", mirror=True, batch_size=3, workers=workers)
    assert path.name == f"TRAIN_FEATURES_{data.name}_key.hdf5"
    cached = CaptionDataset(data.folder, data.name, "train").reading(path)
    assert len(cached) == 35
    plain, mirrored = expected(data.images), expected(data.images[:, :, :, ::-1])
    for i in range(35):
        sample = cached[i]
        assert sample.image.dtype == torch.float16
        assert torch.equal(sample.image, plain[i // 5])
        assert torch.equal(cached[i, MIRRORED].image, mirrored[i // 5])
        assert torch.equal(sample.caption, dataset[i].caption)
        assert (sample.length, sample.index) == (dataset[i].length, i // 5)
    batches = evaluation_loader(cached, 4)
    assert torch.equal(torch.cat([batch.images for batch in batches]), plain)


def test_training_batches_are_the_same_from_pixels_and_from_features(prepared: Write) -> None:
    data = prepared(images=7)
    dataset = CaptionDataset(data.folder, data.name, "train")
    path = cache_features(Encode(), dataset, "key", mirror=True)
    cached = CaptionDataset(data.folder, data.name, "train").reading(path)
    order = CaptionBatchSampler(dataset.lengths, 8, mirror=True)
    loaders = training_loader(dataset, order), training_loader(cached, order)
    for pixels, features in zip(*loaders, strict=True):
        assert torch.equal(Encode()(pixels.images).half(), features.images)
        assert torch.equal(pixels.captions, features.captions)
        assert torch.equal(pixels.indices, features.indices)


def test_features_are_encoded_once(prepared: Write) -> None:
    data = prepared()
    dataset = CaptionDataset(data.folder, data.name, "train")
    encode = Encode()
    first = cache_features(encode, dataset, "key", batch_size=4)
    calls = encode.calls
    assert calls == 2
    assert cache_features(encode, dataset, "key") == first
    assert encode.calls == calls + 1  # of one image, whose features tell the shape
    assert cache_features(encode, dataset, "other") != first
    assert encode.calls > calls
    with h5py.File(first) as file:
        assert file["features"].shape == (6, 1, 64, 3)


def test_features_of_other_pictures_are_made_anew_however_old_they_are(prepared: Write) -> None:
    data = prepared()
    images = data.path("IMAGES", ".hdf5")
    before = images.stat().st_mtime_ns
    path = cache_features(Encode(), CaptionDataset(data.folder, data.name, "train"), "key")
    data = prepared(seed=1)  # other pictures under the same name
    os.utime(images, ns=(before, before))  # as cp -p, tar and rsync -t leave them
    dataset = CaptionDataset(data.folder, data.name, "train")
    assert cache_features(Encode(), dataset, "key") == path
    cached = CaptionDataset(data.folder, data.name, "train").reading(path)
    assert torch.equal(cached[0].image, expected(data.images)[0])


def test_pictures_replaced_while_they_are_encoded_leave_no_features(prepared: Write) -> None:
    data = prepared()
    dataset = CaptionDataset(data.folder, data.name, "train")

    def encode(images: Tensor) -> Tensor:
        data.path("IMAGES", ".hdf5").unlink()
        prepared(seed=1)
        return Encode()(images)

    with pytest.raises(ValueError, match=r"TRAIN_IMAGES_.* changed while its features were"):
        cache_features(encode, dataset, "key")
    assert not list(data.folder.glob("*FEATURES*"))


def rewrite(path: Path, value: float = 0.0, **changes: Any) -> None:
    """Write the features anew, one of them as `value`, in another type or shape."""
    with h5py.File(path, "r+") as file:
        features = file["features"][:]
        del file["features"]
        features[5, 0, 7, 1] = value
        other = {"data": features, "dtype": "float16"} | changes
        if "shape" in other:
            other["data"] = features.flatten()[: np.prod(other["shape"])].reshape(other["shape"])
        file.create_dataset("features", **other)


GARBAGE: dict[str, Callable[[Path], Any]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-2000]),
    "text": lambda path: path.write_text("features"),
    "empty": lambda path: path.write_bytes(b""),
    "NaN": lambda path: rewrite(path, np.nan),
    "infinite": lambda path: rewrite(path, np.inf),
    "wider": lambda path: rewrite(path, dtype="float32"),
    "fewer": lambda path: rewrite(path, shape=(5, 1, 64, 3)),
    "other regions": lambda path: rewrite(path, shape=(6, 1, 48, 4)),
}


@pytest.mark.parametrize("damage", GARBAGE.values(), ids=GARBAGE)
def test_damaged_features_are_made_anew(
    prepared: Write, damage: Callable[[Path], Any], caplog: pytest.LogCaptureFixture
) -> None:
    data = prepared()
    dataset = CaptionDataset(data.folder, data.name, "train")
    path = cache_features(Encode(), dataset, "key")
    damage(path)
    with caplog.at_level("INFO"):
        cache_features(Encode(), dataset, "key")
    assert f"{path} cannot be read (" in caplog.text
    cached = CaptionDataset(data.folder, data.name, "train").reading(path)
    assert torch.equal(cached[0].image, expected(data.images)[0])


def test_a_broken_run_leaves_nothing_behind(prepared: Write) -> None:
    data = prepared()
    dataset = CaptionDataset(data.folder, data.name, "train")
    before = sorted(data.folder.iterdir())

    def encode(images: Tensor) -> Tensor:
        if len(images) < 4:
            raise KeyboardInterrupt
        return Encode()(images)

    with pytest.raises(KeyboardInterrupt):
        cache_features(encode, dataset, "key", batch_size=4)
    assert sorted(data.folder.iterdir()) == before


def test_a_full_disk_is_noticed_before_the_work(
    prepared: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = prepared()
    dataset = CaptionDataset(data.folder, data.name, "train")
    usage = SimpleNamespace(free=6 * 64 * 3 * 2 - 1)  # one byte too few
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    encode = Encode()
    with pytest.raises(
        OSError, match=r"need 2\.304e-06 GB and 2\.303e-06 GB are free: free some space, or train"
    ):
        cache_features(encode, dataset, "key", batch_size=2)
    assert encode.calls == 1
    usage.free += 1
    cache_features(encode, dataset, "key")


def test_missing_features_are_named(prepared: Write) -> None:
    data = prepared()
    dataset = CaptionDataset(data.folder, data.name, "train").reading(data.folder / "no.hdf5")
    with pytest.raises(FileNotFoundError, match=r"no.hdf5 does not exist"):
        dataset[0]


def test_the_fingerprint_tells_weights_preprocessing_and_views_apart() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    preprocessing = Preprocessing()
    prints = {cache_key(network, preprocessing, 1), cache_key(network, preprocessing, 2)}
    assert cache_key(network, preprocessing, 1) in prints
    prints.add(cache_key(network, dataclasses.replace(preprocessing, size=224), 1))
    network[1].running_mean[2] += 1e-3
    prints.add(cache_key(network, preprocessing, 1))
    with torch.no_grad():
        network[0].weight[0, 0] += 1e-3
    prints.add(cache_key(network, preprocessing, 1))
    assert len(prints) == 5
    assert all(len(name) == 16 for name in prints)


def test_features_lie_in_the_folder_that_is_named_one_file_for_each_folder_of_images(
    prepared: Write, tmp_path: Path
) -> None:
    data = prepared()
    other = Path(shutil.copytree(data.folder, tmp_path / "copy"))
    before, encode = sorted(data.folder.rglob("*")), Encode()
    cache = tmp_path.parent / f"{tmp_path.name}_cache" / "features"
    datasets = [CaptionDataset(folder, data.name, "train") for folder in (data.folder, other)]
    paths = [cache_features(encode, dataset, "key", folder=cache) for dataset in datasets]
    assert sorted(data.folder.rglob("*")) == before
    assert sorted(cache.iterdir()) == sorted(paths)
    assert len(set(paths)) == 2
    assert encode.calls == 2
    assert cache_features(encode, datasets[0], "key", folder=cache) == paths[0]
    assert encode.calls == 3  # one image


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(
    prepared: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, encode = prepared(), Encode()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError) as caught:
        cache_features(encode, CaptionDataset(data.folder, data.name, "train"), "key")
    assert str(caught.value) == (
        f"{data.folder} cannot be written: name another folder of features with --cache_dir"
    )
    assert encode.calls == 0
