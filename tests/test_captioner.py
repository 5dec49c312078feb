"""Photo in, caption out: what comes of one photo depends on that photo and on nothing else."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import legacy_files
import numpy as np
import pytest
import scripted
import tiny
import torch
from PIL import Image

import sat
from sat.captioner import Captioner
from sat.checkpoints import native
from sat.config.decoding import DecodingConfig
from sat.data.dataset import CaptionDataset
from sat.decoding.attention_maps import replay
from sat.decoding.generate import generate
from sat.decoding.hypothesis import Hypothesis

SHORT = {"max_length": 12}


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return tiny.captioner()


@pytest.fixture(scope="module")
def exact_captioner() -> Captioner:
    """In double precision: however images share a batch, no rounding makes another caption."""
    return tiny.captioner().to(torch.float64)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return tiny.photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def scripted_captioner(paths: list[Path]) -> Captioner:
    return scripted.captioner(paths[0].parent)


def captioner_with_end_bias(bias: float) -> Captioner:
    """An untrained captioner whose captions all end at once (+40), or never (-40).

    Under twelve seeds the end is at most 8 below the likeliest word, and 18 above the unlikeliest.
    """
    captioner = tiny.captioner()
    with torch.no_grad():
        captioner.model.decoder.fc.bias[captioner.vocabulary.end_id] += bias
    return captioner


@pytest.mark.parametrize(("beam_size", "lines"), [(1, scripted.GREEDY), (3, scripted.BEAM)])
def test_caption_all_of_captions_that_end_apart_gives_each_image_its_own(
    scripted_captioner, paths, beam_size, lines
):
    together = scripted_captioner.caption_all(paths, beam_size=beam_size, **SHORT)
    assert [result.text for result in together] == scripted.captions(lines, SHORT["max_length"])
    assert [not result.finished for result in together] == scripted.ENDLESS
    for path, result in zip(paths, together, strict=True):
        assert scripted_captioner.caption(path, beam_size=beam_size, **SHORT) == result


@pytest.mark.parametrize("beam_size", [1, 3])
def test_caption_all_of_a_batch_equals_its_images_one_by_one(exact_captioner, paths, beam_size):
    how = SHORT | {"beam_size": beam_size, "min_length": 3}
    together = exact_captioner.caption_all(paths, **how)
    for path, result in zip(paths, together, strict=True):
        alone = exact_captioner.caption(path, **how)
        assert (alone.words, alone.finished) == (result.words, result.finished)
        assert alone.score == pytest.approx(result.score, abs=1e-4)
        assert alone.alphas == pytest.approx(result.alphas, abs=1e-5)


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_a_photo_is_seen_as_it_was_prepared(tmp_path, monkeypatch, resize):
    folder = tiny.prepare(tmp_path, resize=resize)
    dataset = CaptionDataset(folder, tiny.NAME.format(1), "train")
    captioner = tiny.captioner(resize=resize)
    seen = []
    encode = captioner.model.encode
    monkeypatch.setattr(
        captioner.model, "encode", lambda images: seen.append(images) or encode(images)
    )
    captioner.caption_all([folder / f"{i}.png" for i in range(tiny.PHOTOS)], **SHORT)
    prepared = torch.stack([dataset.image(i) for i in range(tiny.PHOTOS)])
    assert torch.equal(torch.cat(seen), prepared)
    other = tiny.captioner(resize="crop" if resize == "squash" else "squash")
    with Image.open(folder / "0.png") as photo:
        assert not torch.equal(captioner.encode([photo]), other.encode([photo]))


def test_encode_of_different_images_gives_different_features(captioner, paths):
    """Apart by 3.7 and more, under twelve seeds of the captioner."""
    features = captioner.encode([Image.open(path) for path in paths])
    for i in range(len(paths)):
        for j in range(i):
            assert (features[i] - features[j]).abs().max() > 0.1


@pytest.mark.parametrize("beam_size", [1, 3])
def test_maps_of_captions_are_those_of_single_steps(captioner, paths, beam_size):
    """Maps that are not flat: their largest weight is 0.03 to 0.66 under twelve seeds."""
    model, seen = captioner.model, []
    results = captioner.caption_all(paths, beam_size=beam_size, min_length=3, **SHORT)
    hook = model.decoder.attention.register_forward_hook(
        lambda module, inputs, outputs: seen.append(outputs[1][0])
    )
    with torch.inference_mode(), hook:
        for result in results:
            seen.clear()
            state = model.start(captioner.encode([result.photo]))
            for word in captioner.vocabulary.encode(result.words)[: len(result.words)]:
                _, state = model.step(torch.tensor([word]), state)
            assert result.alphas.shape == (len(result.words), 16, 16)
            assert result.alphas.dtype == np.float32
            for alpha, expected in zip(result.alphas, seen, strict=True):
                assert np.abs(alpha.flatten() - expected.numpy()).max() < 1e-5
                assert alpha.sum() == pytest.approx(1, abs=1e-5)
    assert max(result.alphas.max() for result in results) > 4 / 16**2


def test_rows_of_a_map_are_rows_of_the_photo(captioner):
    """A grid is filled row by row: the maps of a photo mirrored top to bottom are mirrored so."""
    features = captioner.encode([Image.new("RGB", (tiny.SIZE, tiny.SIZE), "red")])
    grid = features.unflatten(1, (16, 16)).clone()
    grid[:, 3, 11] += 20 * torch.randn(
        features.shape[-1], generator=torch.Generator().manual_seed(1)
    )
    with torch.inference_mode():
        words = captioner.vocabulary.encode(["red", "dog"])[1:-1]
        caption = Hypothesis(words, 0.0, finished=False)
        maps = replay(captioner.model, grid.flatten(1, 2), [caption])[0].alphas
        flipped = replay(captioner.model, grid.flip(1).flatten(1, 2), [caption])[0].alphas
    odd = (maps[0] - maps[0].median()).abs()
    assert divmod(int(odd.argmax()), 16) == (3, 11)
    assert torch.allclose(flipped, maps.flip(1), atol=1e-6)


def test_score_of_a_caption_is_the_log_probability_of_its_words_and_end(paths):
    captioner = captioner_with_end_bias(40)
    result = captioner.caption(paths[4], beam_size=1, min_length=3, **SHORT)
    assert result.finished
    assert len(result.words) == 3
    assert result.text == " ".join(result.words)
    words = captioner.vocabulary.encode(result.words)
    caption, lengths = torch.tensor([words]), torch.tensor([len(words)])
    with torch.inference_mode():
        logits = captioner.model(captioner.encode([result.photo]), caption, lengths).logits[0]
    chosen = logits.log_softmax(-1).gather(1, caption[0, 1:, None])[:, 0]
    assert result.score == pytest.approx(float(chosen.sum()), abs=1e-4)


def test_candidates_are_several_captions_of_each_photo_best_first(captioner, paths):
    found = captioner.candidates(paths[:2], num_beams=4, num_return_sequences=3, **SHORT)
    assert [len(captions) for captions in found] == [3, 3]
    best = captioner.caption_all(paths[:2], beam_size=4, **SHORT)
    for captions, one in zip(found, best):
        assert captions[0].words == one.words
        scores = [caption.score for caption in captions if caption.finished]
        assert scores == sorted(scores, reverse=True)
        assert len({caption.text for caption in captions}) == 3


def test_options_may_be_given_as_an_object_or_by_name(captioner, paths):
    options = DecodingConfig(beam_size=3, **SHORT)
    expected = captioner.caption(paths[2], options)
    assert captioner.caption(paths[2], beam_size=3, **SHORT).text == expected.text
    assert captioner.caption(paths[2], num_beams=3, **SHORT).text == expected.text
    assert len(captioner.caption(paths[2], options, max_length=2).words) <= 2


def test_an_unknown_option_is_named(captioner, paths):
    with pytest.raises(ValueError, match=r"beamsize is no decoding option: choose from beam_size,"):
        captioner.caption(paths[0], beamsize=3)


def test_no_photos_no_captions(captioner):
    assert captioner.caption_all([]) == []


def test_paths_names_and_open_images_are_all_photos(exact_captioner, paths):
    with Image.open(paths[1]) as image:
        results = exact_captioner.caption_all([paths[1], str(paths[1]), image], **SHORT)
    assert len({result.text for result in results}) == 1
    assert results[0].photo.size == (56, 42)
    assert results[0].box == (0, 0, 56, 42)
    crop = tiny.captioner(resize="crop").caption(paths[1], **SHORT)
    assert crop.box == pytest.approx((20 / 3, 0, 148 / 3, 42))  # 5 to 37 of 42 pixels


def test_a_photo_that_its_owner_changes_stays_that_of_the_caption(captioner, paths):
    with Image.open(paths[0]) as photo:
        image = photo.convert("RGB")
    before = image.copy()
    result = captioner.caption(image)
    image.thumbnail((9, 9))
    image.close()
    assert result.photo.size == before.size
    assert result.photo.tobytes() == before.tobytes()


def test_a_missing_photo_is_named(captioner, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.jpg: there is no such image"):
        captioner.caption(tmp_path / "none.jpg")


@pytest.fixture(scope="module")
def tutorials(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict]:
    """The tutorial's checkpoint and word map, and what was saved."""
    folder = tmp_path_factory.mktemp("legacy")
    saved = legacy_files.checkpoint()
    path = legacy_files.write_zip(folder / "BEST_checkpoint_coco.pth.tar", saved)
    words = ["<pad>", *(f"w{i}" for i in range(20)), "<unk>", "<start>", "<end>"]
    word_map = folder / "WORDMAP_coco.json"
    word_map.write_text(json.dumps({word: i for i, word in enumerate(words)}))
    return path, word_map, saved


def test_the_tutorials_checkpoint_captions(tutorials, paths):
    path, word_map, saved = tutorials
    captioner = sat.load(str(path), word_map=str(word_map))
    expected = saved["decoder"].state_dict()
    assert tiny.changed(expected, captioner.model.decoder) == set()
    expected = saved["encoder"].resnet.state_dict()
    assert tiny.changed(expected, captioner.model.encoder.body) == set()
    assert not captioner.model.training
    result = captioner.caption(paths[0], beam_size=2, max_length=5)
    assert set(result.words) <= {f"w{i}" for i in range(20)} | {"<unk>"}
    assert result.alphas.shape[1:] == (14, 14)


def test_the_tutorials_checkpoint_needs_its_words(tutorials, tmp_path):
    path, word_map, _ = tutorials
    with pytest.raises(ValueError, match=r"does not hold its words: pass word_map, its WORDMAP_"):
        sat.load(path)
    words = json.loads(word_map.read_text())
    short = tmp_path / "short.json"
    short.write_text(
        json.dumps(dict(list(words.items())[:20]) | {"<unk>": 20, "<start>": 21, "<end>": 22})
    )
    with pytest.raises(ValueError) as caught:
        sat.load(path, word_map=short)
    assert str(caught.value) == (
        "word map has 23 words, checkpoint expects 24: pass the word map it was trained with"
    )


def test_a_folder_brings_its_own_words(captioner, tutorials, tmp_path):
    folder = tmp_path / "best"
    native.save(folder, captioner.model, captioner.vocabulary, captioner.config)
    with pytest.raises(ValueError, match=r"is not the tutorial's checkpoint: leave word_map out"):
        sat.load(folder, word_map=tutorials[1])
    assert sat.load(folder).vocabulary == captioner.vocabulary


def test_a_missing_checkpoint_is_not_taken_for_another_kind(tmp_path):
    path = tmp_path / "BEST_checkpoint.pth.tar"
    with pytest.raises(FileNotFoundError) as caught:
        sat.load(path, word_map=tmp_path / "WORDMAP.json")
    assert str(caught.value) == f"{path}: there is no such checkpoint; check the path"


def sources(path: Path) -> dict[str, object]:
    """One image in each form that people have it in."""
    image = Image.open(path).convert("RGB")
    array = np.array(image)
    chw = torch.from_numpy(array).permute(2, 0, 1)
    return {
        "str": str(path),
        "path": path,
        "file address": path.as_uri(),
        "bytes": path.read_bytes(),
        "file": io.BytesIO(path.read_bytes()),
        "pillow": image,
        "array": array,
        "tensor": chw,
        "float tensor": chw.double() / 255,
    }


def test_caption_of_any_form_of_an_image_is_the_same(captioner, paths):
    expected = captioner.caption(paths[0], **SHORT)
    for name, source in sources(paths[0]).items():
        assert captioner.caption(source, **SHORT) == expected, name
    assert captioner(paths[0], **SHORT) == expected
    assert captioner.caption([paths[0]], **SHORT) == [expected]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, "a int is no image"),
        (None, "a NoneType is no image"),
        (np.zeros((4, 4, 3)), r"the array is float64\[4, 4, 3\]: give uint8"),
        (torch.full((3, 4, 4), 200.0), "floats from 200 to 200: give 0 to 1"),
        (torch.zeros(1, 3, 4, 4), r"the tensor is \[1, 3, 4, 4\]"),
        (torch.zeros(3, 0, 4), r"the tensor is \[3, 0, 4\]"),
        (b"\xff\xd8" * 30000, r"the image \(60000 bytes\): cannot be read"),
        ("x" * 10000, "xxx…: there is no such image|File name too long"),
        ("http://127.0.0.1:9/a.jpg", "cannot be downloaded"),
        ("http://127.0.0.1:9/my photo.jpg", "cannot be downloaded"),
    ],
)
def test_caption_of_no_image_raises_one_short_sentence(captioner, source, message):
    with pytest.raises((ValueError, OSError), match=message) as caught:
        captioner.caption(source)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "image",
    ["a.jpg", b"x", io.BytesIO(b"x"), Image.new("RGB", (4, 4)), np.zeros((4, 4, 3), np.uint8)],
)
def test_caption_all_of_one_image_is_refused(captioner, image):
    with pytest.raises(ValueError, match="put it in"):
        captioner.caption_all(image)


def test_caption_with_max_megapixels_refuses_larger_images(captioner):
    image = np.zeros((40, 50, 3), np.uint8)
    assert captioner.caption(image, max_megapixels=1, **SHORT)
    with pytest.raises(ValueError, match=r"has 0\.002 megapixels, more than 0\.001"):
        captioner.caption(image, max_megapixels=0.001)


def test_load_of_an_unknown_device_says_what_to_use(tmp_path):
    with pytest.raises(ValueError, match="device is 'cdua', which does not work here"):
        sat.load(tmp_path, device="cdua")


def test_caption_all_in_small_batches_equals_one_batch(exact_captioner, paths):
    whole = exact_captioner.caption_all(paths, **SHORT)
    parts = exact_captioner.caption_all(paths, batch_size=5, **SHORT)
    assert [one.text for one in parts] == [one.text for one in whole]


def test_caption_all_of_any_iterable_equals_that_of_a_list(exact_captioner, paths):
    expected = [one.text for one in exact_captioner.caption_all(paths, **SHORT)]
    found = exact_captioner.caption_all(iter(paths), batch_size=5, **SHORT)
    assert [one.text for one in found] == expected


def test_caption_stream_of_a_generator_reads_one_batch_ahead(captioner, paths):
    taken = []
    stream = captioner.caption_stream((taken.append(p) or p for p in paths), batch_size=2, **SHORT)
    assert [next(stream)[0] for _ in range(3)] == [0, 1, 2]
    assert taken == paths[:4]


def test_caption_all_skipping_errors_leaves_none_and_a_warning(
    exact_captioner, paths, tmp_path, caplog
):
    captioner = exact_captioner
    (tmp_path / "bad.jpg").write_text("no image")
    mixed = [paths[0], tmp_path / "bad.jpg", paths[1]]
    first, none, last = captioner.caption_all(mixed, on_error="skip", **SHORT)
    assert none is None
    assert [first.text, last.text] == [captioner.caption(path, **SHORT).text for path in paths[:2]]
    assert "bad.jpg" in caplog.text
    with pytest.raises(ValueError, match=r"bad\.jpg"):
        captioner.caption_all(mixed)


def test_samples_of_one_image_in_several_batches_differ_and_repeat(captioner, paths):
    how = {"do_sample": True, "temperature": 3.0, "min_length": 5, "seed": 1, "batch_size": 1}
    texts, again = (
        [one.text for one in captioner.caption_all([paths[0]] * 6, **how, **SHORT)]
        for _ in range(2)
    )
    assert len(set(texts)) == 6
    assert texts == again
    assert texts[0] == captioner.caption(paths[0], **how, **SHORT).text
    with Image.open(paths[0]) as photo:
        features = captioner.encode([photo.convert("RGB")])
    del how["batch_size"]
    options = captioner.config.decoding.changed(**how, **SHORT)
    [[drawn]] = generate(captioner.model, features, options)  # the first batch has the seed itself
    assert texts[0] == captioner.vocabulary.decode(drawn.words)


@pytest.mark.parametrize("how", [{"beam_size": 3}, {"top_p": 0.9}])
def test_sampled_attention_repeats_with_the_seed_and_leaves_torch_alone(paths, how):
    captioner = tiny.captioner()
    captioner.model.set_attention_mode("sampled")
    before = torch.get_rng_state()
    results = [
        captioner.caption(paths[0], seed=seed, min_length=5, **how, **SHORT) for seed in (1, 1, 2)
    ]
    first, same, other = [(one.score, one.token_log_probs, one.alphas.tolist()) for one in results]
    assert first == same
    assert first[0] != other[0]
    assert first[2] != other[2]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("end_bias", [40, -40])
def test_token_log_probs_of_a_caption_with_and_without_end_sum_to_its_score(paths, end_bias):
    captioner = captioner_with_end_bias(end_bias)
    results = captioner.caption_all(paths, length_penalty=0.0, min_length=3, **SHORT)
    assert [result.finished for result in results] == [end_bias > 0] * tiny.PHOTOS
    for result in results:
        assert sum(result.token_log_probs) == pytest.approx(result.score, abs=1e-3)
        assert len(result.token_log_probs) == len(result.words) + result.finished


def test_maps_are_computed_once_for_all_results_of_a_batch_when_one_is_read(
    scripted_captioner, paths, monkeypatch
):
    calls = []
    monkeypatch.setattr(
        "sat.decoding.attention_maps.replay", lambda *parts: calls.append(1) or replay(*parts)
    )
    results = scripted_captioner.caption_all(paths, **SHORT)
    assert not calls
    for _ in range(2):
        assert all(len(result.alphas) == len(result.words) for result in results)
        assert all(len(result.word_log_probs) == len(result.words) for result in results)
        assert len(calls) == 1
    with pytest.raises(AttributeError, match="no attribute no_such_field"):
        _ = results[0].no_such_field


def test_maps_read_later_are_those_of_the_mode_and_precision_of_before(paths):
    captioner = tiny.captioner()
    before, later = (captioner.caption(paths[0], **SHORT, min_length=3) for _ in range(2))
    expected = before.alphas
    captioner.model.train()
    captioner.to(torch.float64)
    assert later.alphas == pytest.approx(expected, abs=1e-5)
    assert captioner.model.training


@pytest.mark.usefixtures("restless_threads")
def test_maps_that_threads_read_at_once_are_those_of_one(captioner, paths):
    results = captioner.caption_all(paths, **SHORT)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: one.alphas, results * 4))
    expected = [one.alphas for one in captioner.caption_all(paths, **SHORT)] * 4
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_result_whose_maps_were_not_read_is_pickled_with_them(captioner, paths):
    result, other = (captioner.caption(paths[0], **SHORT, min_length=3) for _ in range(2))
    assert pickle.loads(pickle.dumps(result)) == other
    assert copy.copy(other) == result


def test_result_has_a_short_repr_a_dict_and_a_png(captioner, paths):
    result = captioner.caption(paths[0], **SHORT, min_length=3)
    assert "\n" not in repr(result) + repr(captioner)
    assert result.text in repr(result)
    values = json.loads(json.dumps(result.to_dict()))
    assert values["caption"] == result.text
    assert np.allclose(values["alphas"], result.alphas)
    assert "alphas" not in result.to_dict(maps=False)
    assert result._repr_png_().startswith(b"\x89PNG")


def test_results_with_other_maps_are_not_equal(captioner, paths):
    result = captioner.caption(paths[0], **SHORT, min_length=3)
    other = dataclasses.replace(result, alphas=result.alphas / 2)
    assert result == captioner.caption(paths[0], **SHORT, min_length=3)
    assert result != other


def test_captioner_in_bfloat16_captions_with_maps_in_single_precision(paths):
    half = tiny.captioner().to(torch.bfloat16)
    result = half.caption(paths[0], **SHORT, min_length=3)
    assert next(half.model.parameters()).dtype == torch.bfloat16
    assert result.words
    assert result.alphas.dtype == np.float32
    assert result.alphas.sum((1, 2)) == pytest.approx(1, abs=0.02)


def test_caption_of_a_large_image_keeps_it_reduced(captioner):
    result = captioner.caption(np.zeros((300, 5000, 3), np.uint8), **SHORT)
    assert result.photo.size == (2048, 123)
    assert result.box == (0, 0, 2048, 123)
