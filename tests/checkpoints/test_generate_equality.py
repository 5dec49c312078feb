"""Captioners of Hugging Face's folders against `generate` of the same folders."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import hugging_face_folders as folders
import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, VisionEncoderDecoderModel

import sat
from sat.decoding.generate import generate

PAIRS = list(itertools.product(folders.ENCODERS, folders.DECODERS))
FAST = 14
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
def test_caption_of_many_folders_equals_generate(tmp_path: Path) -> None:
    check_cases(range(FAST, FAST + SLOW), tmp_path)
