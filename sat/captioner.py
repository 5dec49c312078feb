"""Captioner: images in, captions and attention maps out.

B images, T words, P regions, D features, h and w cells of the attention grid.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sat.caption_result import CaptionResult
from sat.checkpoints import native, tutorial
from sat.checkpoints.hub_mixin import HubMixin
from sat.config.decoding import DecodingConfig
from sat.config.model import Preprocessing
from sat.data.image_files import MAX_MEGAPIXELS, allow_megapixels, read_image
from sat.data.image_sources import ImageSource
from sat.data.transforms import resize, visible_box
from sat.data.vocabulary import Vocabulary
from sat.decoding.attention_maps import Replays, join_tokens
from sat.decoding.generate import generate
from sat.decoding.hypothesis import Hypothesis
from sat.device import resolve_device
from sat.models.base import device_of, encode_batch

logger = logging.getLogger(__name__)

OnError = Literal["raise", "skip"] | Callable[[Exception], None]
"""of an image that cannot be read: raise its error, skip it with a line in the log, or call this"""

PRETRAINED = Path(__file__).parent / "pretrained" / "everyday"
"""the captioner that comes with the library"""
BATCH_SIZE = 16
"""images decoded together, and held in memory"""
MAX_FIGURE_SIDE = 2048
"""pixels: larger images are kept reduced for the figure, so that memory is bounded"""


class PreparedImage(NamedTuple):
    """The model's input pixels, and the image for the figure."""

    pixels: np.ndarray  # uint8[3, S, S]
    photo: Image.Image


class Captioner(HubMixin):
    """A model with its vocabulary, its preprocessing and its config.

    Training, evaluation and captioning all take this bundle; `load` returns one.
    """

    def __repr__(self) -> str:
        words = f"{len(self.vocabulary)} words"
        return f"Captioner({self.config.family}, {words}, {self.preprocessing.size} px)"

    @property
    def preprocessing(self) -> Preprocessing:
        return self.config.preprocessing

    @property
    def device(self) -> torch.device:
        return device_of(self.model)

    def to(self, target: str | torch.device | torch.dtype) -> Captioner:
        """The captioner itself, moved to a device or converted to a dtype (torch.bfloat16)."""
        self.model.to(target)
        return self

    @overload
    def caption(
        self, image: Sequence[ImageSource], options: DecodingConfig | None = None, **choices: Any
    ) -> list[CaptionResult]: ...
    @overload
    def caption(
        self, image: ImageSource, options: DecodingConfig | None = None, **choices: Any
    ) -> CaptionResult: ...
    def caption(self, image: Any, options: DecodingConfig | None = None, **choices: Any) -> Any:
        """The best caption of one image; `choices` are fields of `DecodingConfig` (beam_size=5 …).

        `image` is whatever `read_image` takes (a path, an address, bytes, an array …), or a list of
        them, which gives a list. Choices that neither they nor `options` make are the
        checkpoint's own. Raises `ValueError` or `OSError` for what is no image.
        """
        if isinstance(image, (list, tuple)):
            return self.caption_all(image, options, **choices)
        return self.caption_all([image], options, **choices)[0]

    __call__ = caption

    def caption_all(
        self, images: Iterable[ImageSource], options: DecodingConfig | None = None, **how: Any
    ) -> list[Any]:
        """The best caption of each image; `how` is as for `caption_stream`.

        With `on_error="skip"` an image that cannot be read has None in its place, and a warning.
        """
        return [best[0] if best else None for best in self.candidates(images, options, **how)]

    def candidates(
        self, images: Iterable[ImageSource], options: DecodingConfig | None = None, **how: Any
    ) -> list[list[CaptionResult]]:
        """For each image its `num_return_sequences` captions, best first; none if it is skipped.

        `how` is as for `caption_stream`.
        """
        images = list(_each(images))
        found = dict(self.caption_stream(images, options, **how))
        return [found.get(i, []) for i in range(len(images))]

    def caption_stream(
        self,
        images: Iterable[ImageSource],
        options: DecodingConfig | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        on_error: OnError = "raise",
        max_megapixels: float = MAX_MEGAPIXELS,
        **choices: Any,
    ) -> Iterator[tuple[int, list[CaptionResult]]]:
        """Index and captions of each image, in order, with only `batch_size` images in memory.

        These are decoded together, by `options` and `choices` as for `caption`; samples depend on
        the seed and `batch_size`. An image that cannot be read, or has more than `max_megapixels`,
        is passed over, or its `ValueError` or `OSError` is raised, as `on_error` says.
        """
        remaining, start = _each(images), 0
        if on_error != "raise" and on_error != "skip" and not callable(on_error):
            raise ValueError(f"on_error is {on_error!r}: choose raise or skip, or give a function")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: give at least 1")
        allow_megapixels(max_megapixels)
        options = (options or self.config.decoding).changed(**choices)
        while batch := list(islice(remaining, batch_size)):
            read: dict[int, PreparedImage] = {}
            for index, image in enumerate(batch, start):
                try:
                    read[index] = self._see(read_image(image, max_megapixels))
                except (ValueError, OSError) as error:
                    if on_error == "raise":
                        raise
                    report: Any = logger.warning if on_error == "skip" else on_error
                    report(error)
            if read:
                results = self.caption_batch(list(read.values()), options.of_batch(start))
                yield from zip(read, results)
            start += len(batch)

    @torch.inference_mode()
    def caption_batch(
        self, seen: list[PreparedImage], options: DecodingConfig
    ) -> list[list[CaptionResult]]:
        """The captions of each image, best first, all decoded together."""
        pixels = torch.from_numpy(np.stack([one.pixels for one in seen]))
        features = encode_batch(self.model, pixels)
        hypotheses = generate(self.model, features, options)
        image_of = [i for i, captions in enumerate(hypotheses) for _ in captions]
        flat = [caption for captions in hypotheses for caption in captions]
        replays = Replays(self.model, features, image_of, flat, options.seed)
        results: list[list[CaptionResult]] = [[] for _ in seen]
        for number, (i, caption) in enumerate(zip(image_of, flat)):
            results[i].append(self._result(seen[i], caption, replays, number))
        return results

    @torch.inference_mode()
    def encode(self, images: Iterable[Image.Image]) -> Tensor:
        """Features float[B, P, D] of RGB images."""
        pixels = np.stack([resize(image, self.preprocessing) for image in images])
        return encode_batch(self.model, torch.from_numpy(pixels))

    def _see(self, image: Image.Image) -> PreparedImage:
        pixels = resize(image, self.preprocessing)
        image = image.copy()  # the caller may change or close his
        if max(image.size) > MAX_FIGURE_SIDE:
            image.thumbnail((MAX_FIGURE_SIDE, MAX_FIGURE_SIDE), reducing_gap=3.0)
        return PreparedImage(pixels, image)

    def _result(
        self, seen: PreparedImage, caption: Hypothesis, replays: Replays, number: int
    ) -> CaptionResult:
        words, lengths = self.vocabulary.words_and_lengths(caption.words)

        def compute() -> dict[str, Any]:
            replayed = replays[number]
            maps, log_probs = join_tokens(replayed, lengths)
            return {
                "alphas": maps.cpu().numpy(),
                "token_log_probs": replayed.log_probs,
                "word_log_probs": log_probs,
            }

        return CaptionResult.on_demand(
            compute,
            text=self.vocabulary.decode(caption.words),
            score=caption.score,
            finished=caption.finished,
            words=words,
            photo=seen.photo,
            box=visible_box(seen.photo.size, self.preprocessing),
        )


def _each(images: Iterable[ImageSource]) -> Iterator[ImageSource]:
    """The images one by one; `ValueError` for a single image, some of which can be iterated."""
    single = (str, PathLike, bytes, Image.Image, np.ndarray, Tensor)
    if isinstance(images, single) or hasattr(images, "read"):
        raise ValueError("one image is given where a list belongs: put it in [ ]")
    return iter(images)


def load(
    path: str | Path | None = None,
    word_map: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Captioner:
    """The captioner in a checkpoint folder, or in the tutorial's BEST_checkpoint_*.pth.tar.

    "user/name" or "user/name@revision" is read from the Hugging Face Hub. Without a path, the one
    that comes with the library. The tutorial's file is read without executing its pickle, and needs
    the `word_map` file it was trained with. Raises `FileNotFoundError` or `ValueError` for anything
    else.
    """
    path, where = PRETRAINED if path is None else path, resolve_device(str(device))
    if not tutorial.is_tutorial(path):
        if word_map is not None:
            if not Path(path).exists():
                raise FileNotFoundError(f"{path}: there is no such checkpoint; check the path")
            remedy = "leave word_map out, folders hold their own"
            raise ValueError(f"{path} is not the tutorial's checkpoint: {remedy}")
        return Captioner(*native.load(path)).to(where).to(dtype)
    if word_map is None:
        raise ValueError(f"{path} does not hold its words: pass word_map, its WORDMAP_*.json")
    parts = tutorial.load(path, Vocabulary.load(word_map))
    return Captioner(*parts).to(where).to(dtype)
