"""Samples as batches: which captions come together, in which order, read by how many processes.

B captions, I images, T words, P regions, D features, S side of the pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from sat.data.dataset import CaptionDataset, Sample


class Batch(NamedTuple):
    """Samples stacked, padded to the longest caption among them.

    Where several captions of an image come together, as many of each, there are fewer images.
    """

    images: Tensor  # uint8[I, 3, S, S] or float16[I, P, D]
    captions: Tensor  # int64[B, T]
    lengths: Tensor  # int64[B]
    indices: Tensor  # int64[I], of the images within their split


class CaptionBatches(Sampler):
    """Batches of caption indices, shuffled anew each epoch, the same for the same seed and epoch.

    With `by_length` a batch holds captions of like length, so that almost nothing is padding (Xu
    et al. 2015, section 4.3). With `mirror` each picture is mirrored with probability 1/2. `every`
    takes only every so many-th caption (captions_per_image: one an image); with `drawn` it is one
    drawn anew each epoch from every so many that follow one another. With `together`, so many
    captions of one image follow one another, in no order of length. `start` skips the batches an
    interrupted epoch has already seen.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        *,
        by_length: bool = True,
        mirror: bool = False,
        every: int = 1,
        drawn: bool = False,
        together: int = 1,
        seed: int = 0,
    ) -> None:
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.by_length = by_length and together == 1
        self.mirror, self.every, self.together = mirror, every, together
        self.drawn = drawn
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return -(-len(self.lengths[:: self.every]) // self.batch_size) - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(len(self.lengths) // self.together)
        views = random.integers(2, size=len(order)) if self.mirror else np.zeros_like(order)
        picks = random.integers(self.every, size=len(order)) if self.drawn else np.zeros_like(order)
        order = order[order % self.every == picks[order // self.every]]
        if self.by_length:
            order = order[np.argsort(self.lengths[order], kind="stable")]
        size = self.batch_size // self.together
        starts = np.arange(0, len(order), size)
        if self.by_length:
            random.shuffle(starts)
        for first in starts[self.start :].tolist():
            chosen = order[first : first + size]
            yield [
                (group * self.together + i, view)
                for group, view in zip(chosen.tolist(), views[chosen].tolist())
                for i in range(self.together)
            ]


def collate(samples: list[Sample], together: int = 1) -> Batch:
    """The samples as one batch, its captions cut to the longest among them.

    So many samples that follow one another share their image, as `CaptionBatches` says.
    """
    lengths = torch.tensor([sample.length for sample in samples])
    captions = torch.stack([sample.caption for sample in samples])[:, : int(lengths.max())]
    images = torch.stack([sample.image for sample in samples[::together]])
    indices = torch.tensor([sample.index for sample in samples[::together]])
    return Batch(images, captions, lengths, indices)


def training_loader(
    dataset: CaptionDataset, batches: CaptionBatches, *, workers: int = 0, pin: bool = False
) -> DataLoader:
    """Batches in the order of `batches`, read by `workers` processes (0: this one)."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=partial(collate, together=batches.together),
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator(),  # its own, so that resuming finds the global one untouched
    )


def evaluation_loader(
    dataset: CaptionDataset, batch_size: int, *, workers: int = 0, pin: bool = False
) -> DataLoader:
    """Every image once, in order."""
    return DataLoader(
        dataset.one_per_image(),
        batch_size=batch_size,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator(),
    )
