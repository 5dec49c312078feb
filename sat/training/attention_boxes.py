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
        inside = torch.from_numpy(np.stack(masks)).to(alphas)
        mass = (alphas[rows, steps] * inside).sum(dim=-1)
        return -mass.clamp(min=torch.finfo(torch.float32).eps).log().sum()

    def _targets(self, batch: Batch, side: int) -> tuple[list[int], list[int], list[np.ndarray]]:
        """The captions and words that name objects, and the share of each cell that is inside."""
        rows, steps, masks = [], [], []
        group = len(batch.captions) // len(batch.indices)
        for i, index in enumerate(batch.indices.tolist()):
            if index not in self.boxes:
                continue
            mirrored = batch.views is not None and bool(batch.views[i])
            for row in range(i * group, (i + 1) * group):
                ids = batch.captions[row, 1 : int(batch.lengths[row]) - 1].tolist()
                words, tokens = self.vocabulary.words_and_lengths(ids)
                last = list(itertools.accumulate(tokens))
                for word, boxes in named_objects(words, self.boxes[index]):
                    inside = cells_inside(boxes, self.side, (side, side))
                    rows.append(row)
                    steps.append(last[word] - 1)
                    masks.append((inside[:, ::-1] if mirrored else inside).flatten())
        return rows, steps, masks
