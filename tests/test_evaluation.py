"""A split is captioned once, scored once, and written once."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import scripted
import tiny
import torch

from sat.atomic_io import write_json
from sat.captioner import Captioner
from sat.config.decoding import DecodingConfig
from sat.config.model import Preprocessing
from sat.data.dataloader import evaluation_loader
from sat.data.dataset import CaptionDataset
from sat.decoding.hypothesis import Hypothesis
from sat.device import resolve_device
from sat.evaluation import (
    Evaluation,
    caption_dataset,
    check_preprocessing,
    evaluate,
    score,
)
from sat.metrics.bleu import bleu
from sat.models.base import encode_batch

GREEDY, BEAM = (
    DecodingConfig(beam_size=1, max_length=12),
    DecodingConfig(beam_size=3, max_length=12),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.prepare(tmp_path_factory.mktemp("data"), known=2)


@pytest.fixture
def test_split(data: Path) -> CaptionDataset:
    return CaptionDataset(data, tiny.NAME.format(2), "test")


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    """In double precision: however images share a batch, no rounding makes another caption."""
    return tiny.captioner().to(torch.float64)


@pytest.fixture(scope="module")
def scripted_captioner(data: Path) -> Captioner:
    return scripted.captioner(data)


def run(
    captioner: Captioner, dataset: CaptionDataset, *runs: DecodingConfig, **how
) -> list[Evaluation]:
    return evaluate(captioner, dataset, runs, **how)


@pytest.mark.parametrize(("decoding", "lines"), [(GREEDY, scripted.GREEDY), (BEAM, scripted.BEAM)])
def test_evaluate_gives_each_image_its_caption_under_its_id(
    scripted_captioner, test_split, decoding, lines
):
    (found,) = run(scripted_captioner, test_split, decoding, batch_size=5)
    order = [(i - 10) % 12 for i in range(12)]  # as `tiny.prepare` turns the test split
    expected = scripted.captions(lines, decoding.max_length)
    assert found.results == [{"image_id": 300 + i, "caption": expected[i]} for i in order]
    assert found.unfinished == sum(scripted.ENDLESS) == 3


def test_evaluate_captions_as_the_captioner_does(captioner, data, test_split):
    (found,) = run(captioner, test_split, BEAM, batch_size=5)
    photos = [data / f"{(i - 10) % 12}.png" for i in range(12)]
    results = captioner.caption_all(photos, BEAM)
    assert [result["caption"] for result in found.results] == [result.text for result in results]
    assert found.unfinished == sum(not result.finished for result in results)


def test_evaluate_scores_its_results_against_all_captions(scripted_captioner, test_split):
    (found,) = run(scripted_captioner, test_split, BEAM)
    ids = [result["image_id"] for result in found.results]
    references = [[tiny.CAPTIONS[i - 300], tiny.OTHERS[i - 300]] for i in ids]
    assert found.scores == bleu(references, [result["caption"] for result in found.results])
    assert 0 < found.scores["Bleu_4"] < 1  # six captions are right, six are not


def test_perfect_captions_score_one_whichever_reference_they_are(captioner, test_split):
    said = []
    for i, reference in enumerate(test_split.references(captioner.vocabulary)):
        words = reference["captions"][i % 2].split()
        said.append(Hypothesis(captioner.vocabulary.encode(words)[1:-1], -1.0, i > 2))
    found = score(dict(enumerate(said)), test_split, captioner.vocabulary)
    assert found.scores == dict.fromkeys(
        ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "brevity_penalty"], pytest.approx(1)
    )
    assert found.unfinished == 3


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (5, 0), (5, 2), (12, 0), (50, 0)])
def test_neither_batches_nor_workers_change_a_caption(captioner, test_split, batch_size, workers):
    (expected,) = run(captioner, test_split, BEAM)
    (found,) = run(captioner, test_split, BEAM, batch_size=batch_size, workers=workers)
    assert (found.results, found.scores) == (expected.results, expected.scores)


def test_the_order_in_which_images_come_does_not_matter(captioner, test_split):
    batches = list(evaluation_loader(test_split, 5))
    expected, found = (
        caption_dataset(captioner, order, [BEAM])[0] for order in (batches, reversed(batches))
    )
    assert found == expected
    one, other = (score(said, test_split, captioner.vocabulary) for said in (expected, found))
    assert one.results == other.results


def test_evaluate_with_two_ways_of_decoding_encodes_each_image_once(
    scripted_captioner, test_split, monkeypatch
):
    captioner = scripted_captioner
    encode, batches = captioner.model.encode, []
    monkeypatch.setattr(
        captioner.model, "encode", lambda images: batches.append(len(images)) or encode(images)
    )
    greedy, beam = run(captioner, test_split, GREEDY, BEAM, batch_size=5)
    assert batches == [5, 5, 2]
    assert greedy.results == run(captioner, test_split, GREEDY)[0].results
    assert beam.results == run(captioner, test_split, BEAM)[0].results
    assert greedy.results != beam.results


def test_the_model_is_in_evaluation_mode(test_split, monkeypatch):
    """Whenever it encodes and steps, dropout and all."""
    captioner = tiny.captioner()
    model, modes = captioner.model, []

    def note_modes(real):
        def watched(*args):
            modes.append({module.training for module in model.modules()})
            return real(*args)

        return watched

    for name in ("encode", "step"):
        monkeypatch.setattr(model, name, note_modes(getattr(model, name)))
    model.train()
    run(captioner, test_split, GREEDY, batch_size=12)
    assert len(modes) >= 2
    assert modes == [{False}] * len(modes)


def test_pixels_are_encoded_and_features_only_moved(captioner, test_split):
    (batch,) = evaluation_loader(test_split, 12)
    with torch.inference_mode():
        encoded = encode_batch(captioner.model, batch.images)
        read = encode_batch(captioner.model, encoded.half())
    assert read.dtype == torch.float32
    assert torch.equal(read, encoded.half().float())


def test_samples_of_a_split_are_apart_in_each_batch(captioner, test_split):
    """All images are the first: only the draws differ."""
    options = DecodingConfig(do_sample=True, temperature=3.0, min_length=5, max_length=12)
    batches = list(evaluation_loader(test_split, batch_size=2))
    same = [batch._replace(images=batches[0].images) for batch in batches]
    (found,) = caption_dataset(captioner, same, [options])
    assert len({tuple(caption.words) for caption in found.values()}) == len(found)


def test_an_image_left_out_is_noticed(captioner, test_split):
    said = {i: Hypothesis([1], 0.0, True) for i in range(11)}
    with pytest.raises(ValueError) as caught:
        score(said, test_split, captioner.vocabulary)
    assert str(caught.value) == (
        "11 captions for 12 images of test: caption every image exactly once"
    )
    with pytest.raises(ValueError, match="12 captions for 12 images"):
        score(said | {12: said[0]}, test_split, captioner.vocabulary)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"size": 64}, "64 px (squash): prepare the data with --image_size 64 --resize squash"),
        ({"resize": "crop"}, "32 px (crop): prepare the data with --image_size 32 --resize crop"),
    ],
)
def test_data_prepared_for_another_model_are_refused(captioner, test_split, change, told):
    preprocessing = dataclasses.replace(captioner.preprocessing, **change)
    config = dataclasses.replace(captioner.config, preprocessing=preprocessing)
    with pytest.raises(ValueError) as caught:
        evaluate(Captioner(captioner.model, captioner.vocabulary, config), test_split, [GREEDY])
    path = test_split.path("IMAGES", ".hdf5")
    assert str(caught.value) == (
        f"{path} holds 32 px images (squash), the model was trained on {told}"
    )


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"metrics": ["bleu", "spice"]}, "metric 'spice' is unknown: choose from bleu, meteor"),
        ({"batch_size": 0}, "batch_size is 0: give at least 1"),
        ({"workers": -1}, "workers is -1: give 0 to read in this process, or more"),
    ],
)
def test_wrong_options_of_an_evaluation_are_refused_before_captioning(
    captioner, test_split, wrong, told
):
    def caption_all(loader: object) -> None:
        pytest.fail("captions first")

    with pytest.raises(ValueError, match=told):
        run(captioner, test_split, GREEDY, progress=caption_all, **wrong)


def test_data_that_fit_are_not_refused(test_split):
    check_preprocessing(Preprocessing(size=32, mean=(0.1, 0.2, 0.3)), test_split)


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "scores.json"
    write_json(path, {"caption": "ein Hund läuft"})
    assert json.loads(path.read_text("utf-8")) == {"caption": "ein Hund läuft"}
    with pytest.raises(TypeError):
        write_json(path, {"caption": object()})

    def full(*paths: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"caption": "other"})
    assert json.loads(path.read_text("utf-8")) == {"caption": "ein Hund läuft"}
    assert list(path.parent.iterdir()) == [path]


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(
        ValueError, match=r"device is 'cuda:1', which does not work here .*: use --dev"
    ):
        resolve_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")
    for name, value in {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "MASTER_ADDR": "a",
        "LOCAL_RANK": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="device is 'cuda:1', which does not work here"):
        resolve_device("auto")
