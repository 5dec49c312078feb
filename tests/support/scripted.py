"""A captioner that says what is written here, in any release and on any processor.

Each photo of `tiny` has three captions, told by their first words: greedy decoding says `GREEDY`,
a beam search `BEAM`, and one with length penalty 1 `LONG` (endless photos: `BEAM`). Probabilities
are apart by a factor of 1.2, mean log-probabilities by 0.05: far more than rounding. B images,
N rows of state, P regions, t words so far, V vocabulary.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import tiny
import torch
from PIL import Image
from torch import Tensor, nn

from sat.captioner import Captioner
from sat.config.model import ModelConfig, Preprocessing
from sat.data.transforms import resize
from sat.data.vocabulary import Vocabulary
from sat.models.base import Output

WORDS = [caption.split() for caption in tiny.CAPTIONS]  # a, colour, animal, verb
GREEDY = [f"the small {colour} {colour}" for _, colour, _, _ in WORDS]
BEAM = [" ".join(words if i % 2 == 0 else (*words[:3], words[2])) for i, words in enumerate(WORDS)]
LONG = [" ".join(("small", *words[1:3], *[words[3]] * 4)) for words in WORDS]
FIRST = {"the": 0.40, "a": 0.33, "small": 0.27}
"""probabilities of the first word; the second word after "the" is unsure, all others are sure"""
UNSURE = 0.1
UNLIKELY = -20.0
ENDLESS = [i % 4 == 3 for i in range(tiny.PHOTOS)]
"""photos whose captions repeat their last word instead of ending"""


class State(NamedTuple):
    images: Tensor  # int64[N]
    said: Tensor  # int64[N, t]


class ScriptedModel(nn.Module):
    """Knows each photo by the sum of its pixels, and then says its captions."""

    samples_attention = False

    def __init__(self, vocabulary: Vocabulary, sums: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))  # tells the device
        self.sums, self.vocabulary = sums, len(vocabulary)
        self.start_id, self.end_id = vocabulary.start_id, vocabulary.end_id
        self.pad_id, self.unk_id = vocabulary.pad_id, vocabulary.unk_id
        self.lines = [
            [tuple(vocabulary.encode(line.split())[1:-1]) for line in lines]
            for lines in zip(GREEDY, BEAM, LONG)
        ]
        self.first = {vocabulary.encode([word])[1]: share for word, share in FIRST.items()}

    def encode(self, images: Tensor) -> Tensor:
        """Features float[B, 4, 1]: the number of the photo in each of four regions."""
        found = images.long().sum((1, 2, 3))
        numbers = (found.unsqueeze(1) - self.sums).abs().argmin(1)
        return numbers.float().view(-1, 1, 1).expand(-1, 4, 1)

    def start(self, features: Tensor) -> State:
        return State(features[:, 0, 0].long(), torch.empty(len(features), 0, dtype=torch.long))

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        said = torch.cat([state.said, tokens.unsqueeze(1)], dim=1)
        rows = zip(state.images.tolist(), said[:, 1:].tolist())
        logits = torch.stack([self._log_p(image, tuple(words)) for image, words in rows])
        return logits, State(state.images, said)

    def reorder(self, state: State, index: Tensor) -> State:
        return State(*(part[index] for part in state))

    def _log_p(self, image: int, words: tuple[int, ...]) -> Tensor:
        """float[V]: of the word after these, before normalization; no two words are equal."""
        log_p = UNLIKELY - torch.arange(self.vocabulary) / self.vocabulary
        if not words:
            for word, share in self.first.items():
                log_p[word] = math.log(share)
            return log_p
        lines = [line for line in self.lines[image] if line[: len(words)] == words[: len(line)]]
        last = words[-1] if ENDLESS[image] else self.end_id
        likely = next((line[len(words)] for line in lines if len(line) > len(words)), last)
        if words == self.lines[image][0][:1]:
            others = (1 - UNSURE) / (self.vocabulary - 1)
            log_p = math.log(others) - 1e-3 * torch.arange(self.vocabulary)
            log_p[likely] = math.log(UNSURE)
        else:
            log_p[likely] = 0.0
        if ENDLESS[image]:
            log_p[self.end_id] = -1000.0
        return log_p

    def forward(
        self, features: Tensor, captions: Tensor, lengths: Tensor, *, output_attentions: bool = True
    ) -> Output:
        """The logits of `step`; each map looks at one region, in turn."""
        state, logits = self.start(features), []
        for tokens in captions[:, :-1].T:
            values, state = self.step(tokens, state)
            logits.append(values)
        regions = torch.eye(4)[torch.arange(len(logits)) % 4]  # (T - 1, P)
        return Output(torch.stack(logits, dim=1), regions.expand(len(captions), -1, -1))


def captioner(folder: Path) -> Captioner:
    """The captioner of the photos that `tiny` wrote to this folder."""
    lines = [line.split() for line in tiny.CAPTIONS + tiny.OTHERS]
    vocabulary = Vocabulary.build(lines, min_word_freq=1)
    config = ModelConfig(preprocessing=Preprocessing(size=tiny.SIZE, resize="squash"))
    sums = []
    for i in range(tiny.PHOTOS):
        with Image.open(folder / f"{i}.png") as photo:
            sums.append(int(resize(photo, config.preprocessing).astype(int).sum()))
    return Captioner(ScriptedModel(vocabulary, torch.tensor(sums)), vocabulary, config)


def captions(lines: list[str], max_length: int) -> list[str]:
    """The lines as they are said in so many steps: endless ones go on with their last word."""
    words = [line.split() for line in lines]
    return [
        " ".join(line + [line[-1]] * (max_length - len(line)) if endless else line)
        for line, endless in zip(words, ENDLESS)
    ]
