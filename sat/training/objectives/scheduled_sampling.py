"""Scheduled sampling (Bengio et al. 2015): captions in which the model's own words stand.

B captions of I images, P regions, D features, T words. The draw is not differentiated, so two
passes make one exact step: here, without a gradient, the words to show are chosen; then the fast
teacher-forced pass is shown them and predicts the true ones. Here dropout is off and attention
that of test time, so these are the words the model would say; there both are as in training.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sat.models.show_attend_tell import ShowAttendTell


@torch.no_grad()
def sample_inputs(
    model: ShowAttendTell, features: Tensor, captions: Tensor, teacher_forcing_ratio: float
) -> Tensor:
    """captions int[B, T] whose words are kept with that probability, each by itself.

    The others are drawn from what the model predicts after the words before, own or not. The
    first (the start) and the last (only ever predicted) stay. features float[I, P, D].
    """
    training = model.training
    model.eval()
    images = torch.arange(len(captions), device=captions.device) // (len(captions) // len(features))
    state = model.reorder(model.start(features), images)
    shown = captions.clone()
    for t in range(1, captions.shape[1] - 1):
        logits, state = model.step(shown[:, t - 1], state)
        own = logits.float().softmax(dim=-1).multinomial(1).squeeze(1)
        kept = torch.rand(len(own), device=own.device) < teacher_forcing_ratio
        shown[:, t] = torch.where(kept, captions[:, t], own)
    model.train(training)
    return shown
