"""Captioners of Hugging Face's folders against `generate` of the same folders."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import hugging_face_folders as folders
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, VisionEncoderDecoderModel

import sat
from sat.caption_result import CaptionResult
from sat.checkpoints import native
from sat.decoding.generate import generate

PAIRS = list(itertools.product(folders.ENCODERS, folders.DECODERS))
FAST = 12
SLOW = 210


class Case:
    """A random folder, the images to caption and the tokens that end a caption of them."""

    def __init__(self, seed: int, folder: Path, **choices: Any) -> None:
        chance = random.Random(seed)
        encoder, decoder = PAIRS[seed * 11 % len(PAIRS)]
        self.network = folders.network(encoder, decoder, seed)
        self.pixels = folders.images(6, seed)
        start, pad = chance.randrange(folders.WORDS), chance.randrange(folders.WORDS)
        end, other = folders.end_tokens(self.network, self.pixels, start)
        self.ends = chance.choice(([end], [end], [end, other]))
        ids = {chance.choice(("decoder_start_token_id", "bos_token_id")): start}
        ids |= {"eos_token_id": self.ends if self.ends[1:] else end, "pad_token_id": pad}
        if "decoder_start_token_id" in ids:
            ids["bos_token_id"] = chance.randrange(folders.WORDS)  # of no effect
        self.values = ids | folders.options(chance, self.ends) | choices
        self.ids = {"bos": start, "eos": end, "pad": pad, "other": self.ends[-1]}
        self.folder = folder
        folders.write_folder(folder, self.network, self.values)
        folders.write_tokenizer(folder, self.ids, chance.choice(folders.NAMES))

    def ours(self, folder: Path) -> tuple[list[list[int]], list[str]]:
        """Tokens and texts of all captions, those of the first image first."""
        captioner = sat.load(folder)
        model, options = captioner.model.to(torch.float64), captioner.config.decoding
        with torch.inference_mode():
            hypotheses = generate(model, model.encode(self.pixels), options)
        lines = [caption.words for captions in hypotheses for caption in captions]
        return lines, [captioner.vocabulary.decode(line) for line in lines]

    def theirs(self, folder: Path, **choices: Any) -> tuple[list[list[int]], list[str]]:
        network = VisionEncoderDecoderModel.from_pretrained(folder).double().eval()
        found: Tensor = network.generate(pixel_values=self.pixels, **choices)
        texts = AutoTokenizer.from_pretrained(folder).batch_decode(found, skip_special_tokens=True)
        return [self.cut(line[1:]) for line in found.tolist()], texts

    def cut(self, line: list[int]) -> list[int]:
        places = [i for i, token in enumerate(line) if token in self.ends]
        return line[: places[0]] if places else line


def lengths(lines: list[list[int]]) -> set[int]:
    return {len(line) for line in lines} - {0}


def check_cases(seeds: range, folder: Path) -> None:
    various = 0
    for seed in seeds:
        case = Case(seed, folder / str(seed))
        expected = case.theirs(case.folder)
        assert case.ours(case.folder) == expected, (seed, case.values)
        various += len(lengths(expected[0])) > 1
    assert various > len(seeds) / 2, "most captions of a case are equally long, or empty"


def test_caption_of_a_folder_equals_generate(tmp_path: Path) -> None:
    check_cases(range(FAST), tmp_path)


@pytest.mark.slow
@pytest.mark.stress
def test_caption_of_many_folders_equals_generate(tmp_path: Path) -> None:
    check_cases(range(FAST, FAST + SLOW), tmp_path)


def test_saved_folder_of_a_loaded_captioner_equals_generate(tmp_path: Path) -> None:
    """What a generation config says goes into the folder that is written, for both readers."""
    for seed in (0, 1, 8):
        case = Case(seed, tmp_path / str(seed))
        expected, saved = case.ours(case.folder), tmp_path / f"saved {seed}"
        captioner = sat.load(case.folder)
        result = captioner.caption(Image.new("RGB", (40, 30), (200, 90, 20)))
        assert len(result.words) == len(result.alphas)  # start and padding among the tokens or not
        native.save(saved, captioner.model, captioner.vocabulary, captioner.config)
        assert case.theirs(saved) == expected
        assert case.ours(saved) == expected
        (saved / "sat.json").unlink()
        assert case.ours(saved) == expected


def captions_of(folder: Path, **values: Any) -> list[CaptionResult]:
    """The captions of six images by a random GPT-2 folder, greedy and not longer than 9 tokens."""
    network = folders.network("vit", "gpt2", 2)
    ids = {"decoder_start_token_id": 1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    folders.write_folder(folder, network.float(), ids | {"max_new_tokens": 9} | values)
    folders.write_tokenizer(folder, {"bos": 1, "eos": 2, "pad": 3}, folders.NAMES[0])
    pixels = np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3), np.uint8)
    return sat.load(folder).caption(list(pixels))


def test_token_log_probs_with_several_ends_are_of_the_end_that_came(tmp_path: Path) -> None:
    for beams in ({"num_beams": 3}, {"do_sample": True}):
        results = captions_of(tmp_path, eos_token_id=[2, *range(4, 12)], **beams)
        assert any(result.finished for result in results)
        for result in results:
            assert sum(result.token_log_probs) == pytest.approx(result.score, abs=1e-4)


def test_maps_of_captions_as_long_as_the_positions_are_there(tmp_path: Path) -> None:
    positions = folders.DECODERS["gpt2"]["n_positions"]
    results = captions_of(tmp_path, max_new_tokens=positions, eos_token_id=2)
    assert not all(result.finished for result in results)
    for result in results:
        assert len(result.alphas) == len(result.words)
        assert len(result.token_log_probs) <= positions


def edit(path: Path, **values: Any) -> None:
    """Set values of a JSON file; those that are None are removed."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: v for key, v in content.items() if v is not None}))


def test_ids_of_config_json_count_without_a_generation_config(tmp_path: Path) -> None:
    case = Case(5, tmp_path, eos_token_id=7, forced_bos_token_id=None, max_new_tokens=8)
    case.ends = [7]
    (tmp_path / "generation_config.json").unlink()
    start, pad = case.ids["bos"], case.ids["pad"]
    ids = {"decoder_start_token_id": start, "eos_token_id": 7, "pad_token_id": pad}
    edit(tmp_path / "config.json", **ids)
    lines, _ = case.theirs(tmp_path)
    assert case.ours(tmp_path)[0] == lines
    assert len(lengths(lines)) > 1


def test_ids_of_the_tokenizer_count_without_any_other(tmp_path: Path) -> None:
    case = Case(10, tmp_path)
    (tmp_path / "generation_config.json").unlink()
    ids = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
    nothing: dict[str, Any] = dict.fromkeys(ids)
    decoder = json.loads((tmp_path / "config.json").read_text())["decoder"] | nothing
    edit(tmp_path / "config.json", **nothing, decoder=decoder)
    case.ends = [case.ids["eos"]]
    found = {"decoder_start_token_id": case.ids["bos"], "eos_token_id": case.ends[0]}
    expected = case.theirs(tmp_path, **found, pad_token_id=case.ids["pad"])
    assert case.ours(tmp_path) == expected
    assert len(lengths(expected[0])) > 1
