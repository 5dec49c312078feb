"""What the decoder's work costs at least: operations and bytes, counted by hand, over the peaks.

B images, P regions, C cells (fewer where a grid is enlarged, see `sat/models/grid.py`), D features,
A attention and H hidden units, E embedding, V vocabulary, N words. A product of (n, k) and (k, m)
is 2nkm operations; numbers have 4 bytes. Each phase takes the longer of its two floors, and the
phases follow one another. Every word is taken to read its photo's features and projection once, as
a step-by-step recurrence must; where these fit a cache, they come faster than memory gives them,
and this floor is a little too high.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.measure import Peaks


class Sizes(NamedTuple):
    """Of one decoder and the grid it looks at."""

    regions: int = 196  # P
    cells: int = 196  # C
    features: int = 2048  # D
    attention: int = 512  # A
    embedding: int = 512  # E
    hidden: int = 512  # H
    vocabulary: int = 9490  # V
    deep: bool = False  # deep output rather than linear

    @property
    def photo(self) -> int:
        """Numbers of one photo: its features and their projection."""
        return self.cells * self.features + self.regions * self.attention

    @property
    def recurrent(self) -> int:
        """Weights that every word multiplies: query, gate, LSTM."""
        inputs = self.embedding + self.features + self.hidden
        return self.hidden * (self.attention + self.features + 4 * inputs)

    @property
    def readout(self) -> int:
        """Weights between the hidden state and the logits."""
        if self.deep:
            return self.embedding * (self.hidden + self.features + self.vocabulary)
        return self.hidden * self.vocabulary

    @property
    def parameters(self) -> int:
        """All weights, without the biases."""
        photo = self.features * (self.attention + 2 * self.hidden)
        return photo + self.recurrent + self.readout + self.vocabulary * self.embedding


class Phase(NamedTuple):
    name: str
    flops: float
    bytes: float


def training_step(sizes: Sizes, images: int, words: int, steps: int) -> list[Phase]:
    """Forward, backward, clipping and Adam for `words` words in `steps` steps, frozen features.

    Backward, a product costs twice what it cost forward, but once where the features came in, as
    nothing is passed back to them. Clipping reads the gradient; Adam reads it, weight and two
    moments, and writes the last three.
    """
    seen, scored = words * sizes.cells * sizes.features, words * sizes.regions * sizes.attention
    entering = sizes.features * (sizes.cells * sizes.attention + 2 * sizes.hidden)
    return [
        Phase(
            "projection of the features, initial state",
            2 * 2 * images * entering,
            2 * 4 * images * sizes.photo,
        ),
        # forward: add, activation, product; backward: as many and the sums over words and regions
        Phase("attention scores", 10 * scored, 4 * 4 * scored),
        Phase("weighted sums", 2 * 2 * seen, 2 * 4 * seen),
        Phase(
            "query, gate, LSTM", 3 * 2 * words * sizes.recurrent, 2 * 4 * steps * sizes.recurrent
        ),
        Phase(
            "vocabulary and loss",
            3 * 2 * words * sizes.readout,
            4 * 4 * words * sizes.vocabulary + 3 * 4 * sizes.readout,
        ),
        Phase("clipping, Adam", 15 * sizes.parameters, 8 * 4 * sizes.parameters),
    ]


def search(sizes: Sizes, widths: Sequence[Sequence[int]]) -> list[Phase]:
    """Beam search over a batch; `widths` are each image's beams, step by step.

    An image's features and projection are read once a step for all its beams; weights are read
    once a step for all images.
    """
    images, rows = len(widths), sum(map(sum, widths))
    visits, steps = sum(map(len, widths)), max(map(len, widths))
    entering = sizes.features * (sizes.cells * sizes.attention + 2 * sizes.hidden)
    return [
        Phase("projection", 2 * images * entering, 4 * images * sizes.photo),
        Phase(
            "attention",
            rows * (4 * sizes.regions * sizes.attention + 2 * sizes.cells * sizes.features),
            4 * visits * sizes.photo,
        ),
        Phase("query, gate, LSTM", 2 * rows * sizes.recurrent, 4 * steps * sizes.recurrent),
        Phase(
            "vocabulary, best words",
            2 * rows * sizes.readout,
            4 * (steps * sizes.readout + 3 * rows * sizes.vocabulary),
        ),
    ]


def floor(phases: Sequence[Phase], peaks: Peaks) -> float:
    """Seconds that the phases take at least at the measured peaks."""
    return sum(seconds_of(phase, peaks) for phase in phases)


def seconds_of(phase: Phase, peaks: Peaks) -> float:
    return max(phase.flops / peaks.flops, phase.bytes / peaks.bandwidth)
