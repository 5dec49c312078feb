"""Group captions into batches: their order, and the loaders that read them.

B captions, I images, T tokens, P regions, D features, S side of the images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from sat.config.checks import check
from sat.data.dataset import CaptionDataset, Sample
from sat.stop_signals import ignore_stop_signals


class StepSize(NamedTuple):
    """The captions that a step of the optimizer learns from, over all ranks."""

    words: float  # to predict
    captions: float


class Batch(NamedTuple):
    """Samples stacked, padded to the longest caption among them.

    There are fewer images than captions when each image has several captions in the batch.
    """

    images: Tensor  # uint8[I, 3, S, S] or float16[I, P, D]
    captions: Tensor  # int64[B, T]
    lengths: Tensor  # int64[B]
    indices: Tensor  # int64[I], of the images within their split
    views: Tensor | None = None  # int64[I]: 1 where the image is mirrored; None: nowhere
    share_of: StepSize | None = None  # where the step has more captions than these

    @property
    def step_size(self) -> StepSize:
        """The size of the whole step."""
        if self.share_of is not None:
            return self.share_of
        return StepSize(sum(self.lengths.tolist()) - len(self.lengths), len(self.lengths))


def microbatches(batch: Batch, parts: int) -> list[Batch]:
    """Split the batch into `parts` parts (fewer, if it has fewer images), by whole images.

    All but the last are of one size, and all keep the padding of the batch.
    """
    if parts == 1:
        return [batch]
    group_size = len(batch.captions) // len(batch.images)
    images, indices = batch.images.chunk(parts), batch.indices.chunk(parts)
    sizes = [group_size * len(part) for part in images]
    captions, lengths = batch.captions.split(sizes), batch.lengths.split(sizes)
    views = [None] * parts if batch.views is None else batch.views.chunk(parts)
    return [Batch(*part) for part in zip(images, captions, lengths, indices, views)]


class CaptionBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (caption index, view), shuffled each epoch and fixed by seed and epoch.

    kind: "by_length" puts captions of similar length into a batch, the longest first, so that there
        is almost no padding; "equal_length" of one length only (Xu et al. 2015, section 4.3), which
        leaves some batches short; "random" any captions.
    mirror: mirror each image with probability 1/2.
    stride: take only the first of every `stride` captions (captions_per_image: one per image).
    draw_one: take a random one of every `stride` captions instead, drawn anew each epoch.
    group_size: keep this many captions of an image together, in no order of length.
    repeats: how many times each caption is taken in an epoch, int of the captions; once if None.
    share: (rank, ranks): deal each batch to so many ranks and give this one's share; sorted by
        length and dealt to and fro, so that all have about as many words and as long captions.

    Set `epoch` before iterating, and `start` to skip batches that an interrupted epoch has seen.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        *,
        kind: str = "by_length",
        mirror: bool = False,
        stride: int = 1,
        draw_one: bool = False,
        group_size: int = 1,
        repeats: np.ndarray | None = None,
        seed: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.rank, self.ranks = share
        self.repeats = np.ones_like(lengths) if repeats is None else repeats
        self.kind = kind if group_size == 1 else "random"
        self.mirror, self.stride, self.group_size = mirror, stride, group_size
        self.draw_one = draw_one
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return sum(-(-count // self.batch_size) for count in self._counts()) - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for chosen, views in self._steps():
            own = self._deal(chosen)
            yield [
                (group * self.group_size + i, view)
                for group, view in zip(chosen[own].tolist(), views[own].tolist())
                for i in range(self.group_size)
            ]

    def with_step_sizes(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """The batches read for this sampler, each told the size of the step that it is a share of.

        A rank without a caption in a step reads one of another rank, as a share of infinitely many.
        """
        if self.ranks == 1:
            return batches
        sizes = (self._step_size(chosen) for chosen, _ in self._steps())
        return (batch._replace(share_of=size) for batch, size in zip(batches, sizes))

    def _steps(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The groups of captions of each step, over all ranks, and their views."""
        random = np.random.default_rng((self.seed, self.epoch))
        groups = np.arange(len(self.lengths) // self.group_size)
        order = random.permutation(np.repeat(groups, self.repeats[:: self.group_size]))
        none = np.zeros_like(groups)
        views = random.integers(2, size=len(groups)) if self.mirror else none
        picks = random.integers(self.stride, size=len(groups)) if self.draw_one else none
        order = order[order % self.stride == picks[order // self.stride]]
        if self.kind != "random":
            order = order[np.argsort(-self.lengths[order], kind="stable")]
        batches = list(self._cut(order, self.batch_size // self.group_size))
        turns = np.arange(len(batches))
        if self.kind != "random":
            random.shuffle(turns)
        for chosen in (batches[turn] for turn in turns[self.start :]):
            yield chosen, views[chosen]

    def _deal(self, chosen: np.ndarray) -> np.ndarray:
        """Places in a step of the groups that are this rank's; of one that is not, if none is."""
        if self.ranks == 1:
            return np.arange(len(chosen))
        turn, place = np.divmod(np.arange(len(chosen)), self.ranks)
        to = np.where(turn % 2 == 0, place, self.ranks - 1 - place)
        by_length = np.argsort(-self._words(chosen), kind="stable")
        own: np.ndarray = by_length[to == self.rank]
        return own if len(own) else by_length[:1]

    def _words(self, chosen: np.ndarray) -> np.ndarray:
        """The words to predict of each of these groups."""
        words: np.ndarray = self.lengths.reshape(-1, self.group_size)[chosen].sum(axis=1)
        return words - self.group_size

    def _step_size(self, chosen: np.ndarray) -> StepSize:
        if self.rank >= len(chosen):
            return StepSize(math.inf, math.inf)
        return StepSize(int(self._words(chosen).sum()), len(chosen) * self.group_size)

    def _counts(self) -> list[int]:
        """The number of captions to be cut into batches: in all, or of each length."""
        lengths = np.repeat(self.lengths[:: self.stride], self.repeats[:: self.stride])
        if self.kind == "equal_length":
            counts: list[int] = np.unique(-lengths, return_counts=True)[1].tolist()
            return counts
        return [len(lengths)]

    def _cut(self, order: np.ndarray, size: int) -> Iterator[np.ndarray]:
        ends = np.cumsum(self._counts()) // self.group_size
        for group in np.split(order, ends[:-1]):
            yield from (group[first : first + size] for first in range(0, len(group), size))


def collate(samples: list[Sample], group_size: int = 1) -> Batch:
    """Stack samples into a batch, its captions cut to the longest among them.

    Every `group_size` samples in a row share their image.
    """
    lengths = torch.tensor([sample.length for sample in samples])
    captions = torch.stack([sample.caption for sample in samples])[:, : int(lengths.max())]
    images = torch.stack([sample.image for sample in samples[::group_size]])
    indices = torch.tensor([sample.index for sample in samples[::group_size]])
    views = torch.tensor([sample.view for sample in samples[::group_size]])
    return Batch(images, captions, lengths, indices, views)


def training_loader(
    dataset: CaptionDataset, batches: CaptionBatchSampler, *, workers: int = 0, pin: bool = False
) -> DataLoader[Sample]:
    """A loader of the sampler's batches, read by `workers` processes (0: this one)."""
    return _loader(dataset, batches, batches.group_size, workers, pin)


def evaluation_loader(
    dataset: CaptionDataset,
    batch_size: int,
    *,
    workers: int = 0,
    pin: bool = False,
    share: tuple[int, int] = (0, 1),
) -> DataLoader[Sample]:
    """A loader of every image once, in order; `share` (rank, ranks) takes every ranks-th batch."""
    check(batch_size >= 1, "batch_size", batch_size, "give at least 1")
    check(workers >= 0, "workers", workers, "give 0 to read in this process, or more")
    captions = range(0, len(dataset), dataset.captions_per_image)  # the first of each image
    rank, ranks = share
    starts = range(rank * batch_size, len(captions), ranks * batch_size)
    batches = [captions[start : start + batch_size] for start in starts]
    return _loader(dataset, batches, 1, workers, pin)


def _loader(
    dataset: CaptionDataset, batches: Any, group_size: int, workers: int, pin: bool
) -> DataLoader[Sample]:
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=partial(collate, group_size=group_size),
        num_workers=workers,
        worker_init_fn=ignore_stop_signals,
        pin_memory=pin,
        generator=torch.Generator(),  # its own, so that resuming finds the global one untouched
    )
