"""CaptionResult: a caption of one image, with its probabilities and attention maps."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image


@dataclass(frozen=True, eq=False, repr=False)
class CaptionResult:
    """A caption of one image. Results are equal if caption, score and maps are."""

    text: str
    score: float
    """total log-probability of the caption"""
    finished: bool
    """False when the step limit cut the caption off"""
    words: list[str]
    alphas: np.ndarray
    """float32[T, h, w]: the attention map of each word; every map sums to one. With the
    probabilities it is computed when first read, from the model's weights by then"""
    photo: Image.Image
    """the whole image, upright, RGB; very large ones are reduced"""
    box: tuple[float, float, float, float]
    """left, top, right, bottom of the part the model saw, in pixels of the image"""
    token_log_probs: list[float] = field(default_factory=list)
    """log-probability of each token; that of the end comes last if the caption is finished"""

    word_log_probs: list[float] = field(default_factory=list)
    """log-probability of each word: the sum over its tokens"""

    @classmethod
    def on_demand(cls, compute: Callable[[], dict[str, Any]], **fields: Any) -> CaptionResult:
        """A result of `fields`, whose others `compute` gives when one of them is first read."""
        result = object.__new__(cls)
        result.__dict__.update(fields, _compute=compute)
        return result

    def __getattr__(self, name: str) -> Any:  # called for what is not there yet
        if name not in self.__dataclass_fields__ or "_compute" not in self.__dict__:
            raise AttributeError(f"CaptionResult has no attribute {name}")
        self.__dict__.update(self._compute())
        return self.__dict__[name]

    def __getstate__(self) -> dict[str, Any]:
        """All fields, to be pickled or copied."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def __repr__(self) -> str:
        end = "" if self.finished else ", unfinished"
        return f"CaptionResult({self.text!r}, score={self.score:.2f}{end})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CaptionResult):
            return NotImplemented
        same = (self.text, self.score, self.finished, self.words, self.box) == (
            *(other.text, other.score, other.finished, other.words, other.box),
        )
        return same and np.array_equal(self.alphas, other.alphas)

    def to_dict(self, *, maps: bool = True) -> dict[str, Any]:
        """The result as JSON holds it, without the image."""
        values = {
            "caption": self.text,
            "score": self.score,
            "finished": self.finished,
            "words": self.words,
            "token_log_probs": self.token_log_probs,
        }
        return values | ({"alphas": self.alphas.tolist(), "box": self.box} if maps else {})

    def _repr_png_(self) -> bytes:
        """The figure, as notebooks show it."""
        from sat.visualize import visualize_att

        stream = io.BytesIO()
        visualize_att(self).savefig(stream, format="png", dpi=100)
        return stream.getvalue()
