"""Captions of several lengths packed step by step, for the unrolled decoder.

B captions, T words to predict in the longest, N words in all.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from sat.ops.ragged_rows import from_host, is_identity


def captions_per_image(captions: int, images: int) -> int:
    """The captions that each image has; `ValueError` unless each has as many, one at least."""
    repeats = captions // max(images, 1)
    if repeats * images != captions or not repeats:
        raise ValueError(f"{captions} captions of {images} images: give as many of each image")
    return repeats


class PackedCaptions:
    """Captions sorted from long to short and packed as `torch.nn.utils.rnn` packs sequences.

    The words of step 0 come first, then those of step 1, and so on; a step holds a prefix of the
    sorted captions, so a caption that has ended costs nothing more. `order` int[B] sorts the
    captions, `active_sizes` counts the captions that have a word at each step, `batch_sizes` the
    captions that are computed there. In half precision `batch_sizes` is larger: a few captions that
    have ended are computed too, because oneDNN compiles a kernel for each new size.
    """

    def __init__(self, lengths: Tensor, shape: tuple[int, ...], features: Tensor) -> None:
        """Captions of `shape` (B, T + 1) and `lengths` int[B], start and end counted.

        `features` [I, ...] are those of the I images that have B / I captions each, one after
        another; `image_index` int[B] is the image of each sorted caption. Lengths on the host spare
        a wait for the device. Raises `ValueError` if B is not a multiple of I.
        """
        per_image = captions_per_image(shape[0], len(features))
        to_predict = lengths.flatten().cpu().numpy() - 1
        order = np.argsort(-to_predict, kind="stable")
        image_index = order // per_image
        self.steps = steps = shape[1] - 1
        active = np.arange(steps)[:, None] < to_predict[order]  # (T, B)
        self.active_sizes = [n for n in active.sum(axis=1).tolist() if n]
        multiple = 16 if features.dtype in (torch.bfloat16, torch.float16) else 1
        self.batch_sizes = [min(shape[0], -(-n // multiple) * multiple) for n in self.active_sizes]
        computed = np.zeros_like(active)
        for step, n in enumerate(self.batch_sizes):
            computed[step, :n] = True
        positions = order * steps + np.arange(steps)[:, None]  # in the flat int[B, T]
        on_device = partial(from_host, device=features.device)
        self.order, self.image_index = on_device(order), on_device(image_index)
        self._one_each = is_identity(image_index, len(features))
        self._computed = on_device(positions[computed])
        self._positions = on_device(positions[active])
        self._active_rows = None
        if self.batch_sizes != self.active_sizes:
            self._active_rows = on_device(np.flatnonzero(active[computed]))

    def repeat(self, of_images: Tensor) -> Tensor:
        """The rows [B, ...] of the sorted captions, from one row [I, ...] an image."""
        if self._one_each:
            return of_images
        return of_images.index_select(0, self.image_index)

    def pack(self, words: Tensor) -> Tensor:
        """The words of int[B, T], given in the order of the batch, packed by `batch_sizes`."""
        return words.flatten().index_select(0, self._computed)

    def drop_finished(self, packed: Tensor) -> Tensor:
        """The rows [N, X] packed by `active_sizes`, from rows packed by `batch_sizes`."""
        return packed if self._active_rows is None else packed.index_select(0, self._active_rows)

    def unpack(self, packed: Tensor) -> Tensor:
        """float[B, T, X] in the order of the batch, zero past a caption's end.

        `packed` float[N, X] is packed by `active_sizes`.
        """
        padded = packed.new_zeros(len(self.order) * self.steps, packed.shape[1])
        return padded.index_copy_(0, self._positions, packed).unflatten(0, (-1, self.steps))


def pad_steps(packed: Tensor, batch_sizes: list[int]) -> Tensor:
    """float[B, T, X] of sorted captions from `packed` float[N, X], zero past a caption's end."""
    padded = packed.new_zeros(len(batch_sizes), batch_sizes[0], packed.shape[1])
    for step, rows in enumerate(packed.split(batch_sizes)):
        padded[step, : len(rows)] = rows
    return padded.transpose(0, 1)
