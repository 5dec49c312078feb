"""Scheduled sampling (Bengio et al. 2015): input words drawn from the model in place of references.

B captions of I images, P regions, D features, T words.

The draw has no gradient, so two passes make one exact step: this one chooses the input words, then
the fast teacher-forced pass takes them as its inputs and predicts the reference words. Here dropout
is off and attention is that of test time, so these are the words that the model would generate; the
second pass runs as in all training.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sat.models.base import CaptionModel
from sat.ops.packed_captions import captions_per_image


@torch.no_grad()
def sample_inputs(
    model: CaptionModel, features: Tensor, captions: Tensor, teacher_forcing_ratio: float
) -> Tensor:
    """captions int[B, T], each word replaced with probability 1 - `teacher_forcing_ratio`.

    A replacement is drawn from the model's prediction after the input words before it. The first
    token (the start) and the last (which is never an input) stay. features float[I, P, D].
    """
    training = model.training
    model.eval()
    repeats = captions_per_image(len(captions), len(features))
    images = torch.arange(len(captions)) // repeats
    state = model.reorder(model.start(features), images)
    inputs = captions.clone()
    for t in range(1, captions.shape[1] - 1):
        logits, state = model.step(inputs[:, t - 1], state)
        p = logits.float().softmax(dim=-1).nan_to_num(1.0)  # NaN is told when the loss is read
        drawn = p.multinomial(1).squeeze(1)
        keep = torch.rand(len(drawn), device=drawn.device) < teacher_forcing_ratio
        inputs[:, t] = torch.where(keep, captions[:, t], drawn)
    model.train(training)
    return inputs
