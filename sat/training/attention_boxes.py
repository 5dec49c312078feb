"""Supervised attention: look inside the box of the object that a word names.

B captions, T words, P regions (h x w cells).
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from sat.data.dataloader import Batch
from sat.data.dataset import CaptionDataset, read_vocabulary
from sat.metrics.pointing_game import cells_inside, named_objects
from sat.ops.ragged_rows import from_host


class AttentionBoxes:
    """The boxes of the training images, found by the words of their captions.

    After Liu et al. 2017, "Attention Correctness in Neural Image Captioning". Raises `ValueError`
    where no image has boxes.
    """

    def __init__(self, train: CaptionDataset) -> None:
        self.boxes, self.side = train.boxes(), train.image_size
        if not self.boxes:
            raise ValueError(
                f"box_weight is not 0, but no training image in {train.folder} has boxes: prepare "
                "the data with --boxes, or leave box_weight out"
            )
        self.vocabulary = read_vocabulary(train.folder, train.name)

    def loss(self, alphas: Tensor, batch: Batch) -> Tensor:
        """Sum of -log(attention inside) over the words that name objects: alphas float[B, T, P]."""
        rows, steps, masks = self._targets(batch, math.isqrt(alphas.shape[-1]))
        if not rows:
            return alphas.new_zeros(())
        inside = from_host(np.stack(masks), alphas.device).to(alphas.dtype)
        words = from_host(np.array(rows) * alphas.shape[1] + steps, alphas.device)
        mass = (alphas.flatten(0, 1).index_select(0, words) * inside).sum(dim=-1)
        return -mass.clamp(min=torch.finfo(torch.float32).eps).log().sum()

    def _targets(self, batch: Batch, side: int) -> tuple[list[int], list[int], list[np.ndarray]]:
        """The captions and words that name objects, and the share of each cell that is inside."""
        rows, steps, masks = [], [], []
        group, lengths = len(batch.captions) // len(batch.indices), batch.lengths.tolist()
        views = [0] * len(batch.indices) if batch.views is None else batch.views.tolist()
        for i, index in enumerate(batch.indices.tolist()):
            if index not in self.boxes:
                continue
            for row in range(i * group, (i + 1) * group):
                ids = batch.captions[row, 1 : lengths[row] - 1].tolist()
                words, tokens = self.vocabulary.words_and_lengths(ids)
                last = list(itertools.accumulate(tokens))
                for word, boxes in named_objects(words, self.boxes[index]):
                    inside = cells_inside(boxes, self.side, (side, side))
                    rows.append(row)
                    steps.append(last[word] - 1)
                    masks.append((inside[:, ::-1] if views[i] else inside).flatten())
        return rows, steps, masks
