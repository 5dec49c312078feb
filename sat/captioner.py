"""Captioner: images in, captions and attention maps out.

B images, T words, P regions, D features, h and w cells of the attention grid.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sat import hub
from sat.checkpoints import native, tutorial
from sat.config.decoding import DecodingConfig
from sat.config.model import ModelConfig, Preprocessing
from sat.data.image_files import read_image
from sat.data.transforms import resize, visible_box
from sat.data.vocabulary import Vocabulary
from sat.decoding.attention_maps import attention_maps, mean_maps
from sat.decoding.generate import generate
from sat.decoding.hypothesis import Hypothesis
from sat.models.base import CaptionModel, device_of, encode_batch

ImageSource = str | Path | Image.Image

PRETRAINED = Path(__file__).parent / "pretrained" / "flickr8k"
"""the captioner that comes with the library, trained on Flickr8k"""


@dataclass(frozen=True)
class CaptionResult:
    """A caption of one image."""

    text: str
    score: float
    """total log-probability of the caption"""
    finished: bool
    """False when the step limit cut the caption off"""
    words: list[str]
    alphas: np.ndarray
    """float32[T, h, w]: the attention map of each word (the mean over its tokens, where it has
    several); every map sums to one"""
    photo: Image.Image
    """the whole image, upright, RGB"""
    box: tuple[float, float, float, float]
    """left, top, right, bottom of the part the model saw, in pixels of the image"""


class Captioner:
    """A model with its vocabulary, its preprocessing and its config.

    Training, evaluation and captioning all take this bundle; `load` returns one.
    """

    def __init__(self, model: CaptionModel, vocabulary: Vocabulary, config: ModelConfig) -> None:
        self.model: CaptionModel = model.eval()
        self.vocabulary = vocabulary
        self.config = config

    @property
    def preprocessing(self) -> Preprocessing:
        return self.config.preprocessing

    @property
    def device(self) -> torch.device:
        return device_of(self.model)

    def to(self, device: str | torch.device) -> Captioner:
        """The captioner itself, moved to the device."""
        self.model.to(device)
        return self

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> Captioner:
        """The captioner in a folder, or of the repository user/name of the Hugging Face Hub."""
        name = pretrained_model_name_or_path
        return cls(*native.load(hub.local_folder(name, revision=revision, cache_dir=cache_dir)))

    def save_pretrained(
        self, save_directory: str | Path, *, repo_id: str | None = None, push_to_hub: bool = False
    ) -> None:
        """Write a checkpoint folder; with `push_to_hub`, upload it as `repo_id` (user/name) too."""
        native.save(save_directory, self.model, self.vocabulary, self.config)
        if push_to_hub:
            hub.push(save_directory, repo_id or "")

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the captioner as user/name and return the address; `options` of `hub.push`."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "captioner")
            return hub.push(Path(folder) / "captioner", repo_id, **options)

    def caption(
        self, image: ImageSource, options: DecodingConfig | None = None, **choices: Any
    ) -> CaptionResult:
        """The best caption of one image; `choices` are fields of `DecodingConfig` (beam_size=5 …).

        Choices that neither they nor `options` make are the checkpoint's own.
        """
        return self.caption_all([image], options, **choices)[0]

    def caption_all(
        self, images: Sequence[ImageSource], options: DecodingConfig | None = None, **choices: Any
    ) -> list[CaptionResult]:
        """The best caption of each image, all decoded together."""
        return [best[0] for best in self.candidates(images, options, **choices)]

    @torch.inference_mode()
    def candidates(
        self, images: Sequence[ImageSource], options: DecodingConfig | None = None, **choices: Any
    ) -> list[list[CaptionResult]]:
        """For each image its `num_return_sequences` captions, best first."""
        options = decoding_options(options or self.config.decoding, **choices)
        read = [read_image(image) for image in images]
        if not read:
            return []
        features = self.encode(read)
        hypotheses = generate(self.model, features, options)
        return [
            [self._result(image, one, caption) for caption in captions]
            for image, one, captions in zip(read, features.split(1), hypotheses)
        ]

    def caption_stream(
        self,
        images: Sequence[ImageSource],
        options: DecodingConfig | None = None,
        *,
        batch_size: int = 16,
        on_error: Callable[[Exception], None] | None = None,
    ) -> Iterator[tuple[int, list[CaptionResult]]]:
        """Index and captions of each image, in order, with only `batch_size` images in memory.

        An image that cannot be read is passed over and given to `on_error`; without `on_error` its
        `ValueError` or `OSError` is raised.
        """
        for start in range(0, len(images), batch_size):
            read: dict[int, Image.Image] = {}
            for index, image in enumerate(images[start : start + batch_size], start):
                try:
                    read[index] = read_image(image)
                except (ValueError, OSError) as error:
                    if on_error is None:
                        raise
                    on_error(error)
            yield from zip(read, self.candidates(list(read.values()), options))

    @torch.inference_mode()
    def encode(self, images: Iterable[Image.Image]) -> Tensor:
        """Features float[B, P, D] of RGB images."""
        pixels = np.stack([resize(image, self.preprocessing) for image in images])
        return encode_batch(self.model, torch.from_numpy(pixels))

    def _result(self, image: Image.Image, features: Tensor, caption: Hypothesis) -> CaptionResult:
        words, lengths = self.vocabulary.words_and_lengths(caption.words)
        maps = attention_maps(self.model, features, caption.words)
        return CaptionResult(
            text=self.vocabulary.decode(caption.words),
            score=caption.score,
            finished=caption.finished,
            words=words,
            alphas=mean_maps(maps, lengths).cpu().numpy(),
            photo=image,
            box=visible_box(image.size, self.preprocessing),
        )


def decoding_options(options: DecodingConfig, **choices: Any) -> DecodingConfig:
    """The options with some replaced; Hugging Face's `num_beams` is accepted for `beam_size`."""
    if "num_beams" in choices:
        choices["beam_size"] = choices.pop("num_beams")
    known = {field.name for field in dataclasses.fields(DecodingConfig)}
    unknown = sorted(set(choices) - known)
    if unknown:
        raise ValueError(
            f"{unknown[0]} is no decoding option: choose from {', '.join(sorted(known))}"
        )
    return dataclasses.replace(options, **choices)


def load(path: str | Path | None = None, word_map: str | Path | None = None) -> Captioner:
    """The captioner in a checkpoint folder, or in the tutorial's BEST_checkpoint_*.pth.tar.

    "user/name" or "user/name@revision" is read from the Hugging Face Hub. Without a path, the one
    that comes with the library (its encoder's weights: `[demo]`). The tutorial's file is read
    without executing its pickle, and needs the `word_map` file it was trained with. Raises
    `FileNotFoundError` or `ValueError` for anything else.
    """
    path = PRETRAINED if path is None else path
    if tutorial.is_tutorial(path):
        return _load_tutorial(path, word_map)
    if word_map is not None:
        raise ValueError(
            f"{path} is not the tutorial's checkpoint: leave word_map out, folders hold their own"
        )
    return Captioner(*native.load(path))


def _load_tutorial(path: str | Path, word_map: str | Path | None) -> Captioner:
    if word_map is None:
        raise ValueError(f"{path} does not hold its words: pass word_map, its WORDMAP_*.json")
    return Captioner(*tutorial.load(path, Vocabulary.load(word_map)))
