"""Captioner: photo in, caption out, and where the model looked for every word.

T words, P regions, h and w cells of the grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sat.checkpoints import native, tutorial
from sat.config.decoding import DecodingConfig
from sat.config.model import ModelConfig, Preprocessing
from sat.data.image_files import read_image
from sat.data.transforms import normalize, resize, visible_box
from sat.data.vocabulary import Vocabulary
from sat.decoding.attention_maps import attention_maps
from sat.decoding.generate import generate
from sat.decoding.hypothesis import Hypothesis
from sat.models.show_attend_tell import ShowAttendTell

Photo = str | Path | Image.Image


@dataclass(frozen=True)
class CaptionResult:
    """A caption of one photo."""

    text: str
    score: float
    """total log-probability of the caption"""
    finished: bool
    """False when the step limit cut the caption off"""
    words: list[str]
    alphas: np.ndarray
    """float32[T, h, w]: where the model looked for each word; every map sums to one"""
    photo: Image.Image
    """the whole photo, upright, RGB"""
    box: tuple[float, float, float, float]
    """left, top, right, bottom of the part the model saw, in pixels of the photo"""


class Captioner:
    """A model with its words and its preprocessing: what `load` returns."""

    def __init__(self, model: ShowAttendTell, vocabulary: Vocabulary, config: ModelConfig) -> None:
        self.model = model.eval()
        self.vocabulary = vocabulary
        self.config = config

    @property
    def preprocessing(self) -> Preprocessing:
        return self.config.preprocessing

    def to(self, device: str | torch.device) -> Captioner:
        """The captioner itself, moved to the device."""
        self.model.to(device)
        return self

    def caption(
        self, photo: Photo, options: DecodingConfig | None = None, **choices: Any
    ) -> CaptionResult:
        """The best caption of one photo; `choices` are fields of `DecodingConfig` (beam_size=5 …).

        What neither they nor `options` say is the checkpoint's own choice.
        """
        return self.caption_all([photo], options, **choices)[0]

    def caption_all(
        self, photos: Sequence[Photo], options: DecodingConfig | None = None, **choices: Any
    ) -> list[CaptionResult]:
        """The best caption of each photo, all decoded together."""
        return [best[0] for best in self.candidates(photos, options, **choices)]

    @torch.inference_mode()
    def candidates(
        self, photos: Sequence[Photo], options: DecodingConfig | None = None, **choices: Any
    ) -> list[list[CaptionResult]]:
        """For each photo its `num_return_sequences` captions, best first."""
        options = decoding(options or self.config.decoding, **choices)
        read = [read_image(photo) for photo in photos]
        if not read:
            return []
        features = self.encode(read)
        found = generate(self.model, features, options)
        return [
            [self._result(photo, one, caption) for caption in captions]
            for photo, one, captions in zip(read, features.split(1), found)
        ]

    @torch.inference_mode()
    def encode(self, photos: Iterable[Image.Image]) -> Tensor:
        """Features float[B, P, D] of RGB photos."""
        pixels = np.stack([resize(photo, self.preprocessing) for photo in photos])
        device = next(self.model.parameters()).device
        return self.model.encode(normalize(torch.from_numpy(pixels).to(device), self.preprocessing))

    def _result(self, photo: Image.Image, features: Tensor, caption: Hypothesis) -> CaptionResult:
        return CaptionResult(
            text=self.vocabulary.decode(caption.words),
            score=caption.score,
            finished=caption.finished,
            words=self.vocabulary.words(caption.words),
            alphas=attention_maps(self.model, features, caption.words).cpu().numpy(),
            photo=photo,
            box=visible_box(photo.size, self.preprocessing),
        )


def decoding(options: DecodingConfig, **choices: Any) -> DecodingConfig:
    """The options with some replaced; Hugging Face's `num_beams` is understood as `beam_size`."""
    if "num_beams" in choices:
        choices["beam_size"] = choices.pop("num_beams")
    known = {field.name for field in dataclasses.fields(DecodingConfig)}
    unknown = sorted(set(choices) - known)
    if unknown:
        raise ValueError(
            f"{unknown[0]} is no decoding option: choose from {', '.join(sorted(known))}"
        )
    return dataclasses.replace(options, **choices)


PRETRAINED = Path(__file__).parent / "pretrained" / "flickr8k"
"""the captioner that comes with the library, trained on Flickr8k"""


def load(path: str | Path = PRETRAINED, word_map: str | Path | None = None) -> Captioner:
    """The captioner in a checkpoint folder, or in the tutorial's BEST_checkpoint_*.pth.tar.

    Without a path, the one that comes with the library (its encoder's weights: `[demo]`).

    The tutorial's file is read without executing its pickle, and needs the `word_map` file it was
    trained with. Raises `FileNotFoundError` or `ValueError` for anything else.
    """
    if tutorial.is_tutorial(path):
        return _load_legacy(path, word_map)
    if word_map is not None:
        raise ValueError(
            f"{path} is not the tutorial's checkpoint: leave word_map out, folders hold their own"
        )
    return Captioner(*native.load(path))


def _load_legacy(path: str | Path, word_map: str | Path | None) -> Captioner:
    if word_map is None:
        raise ValueError(f"{path} does not hold its words: pass word_map, its WORDMAP_*.json")
    return Captioner(*tutorial.load(path, Vocabulary.load(word_map)))
