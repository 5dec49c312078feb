"""Generate captions by beam search or by sampling."""

from __future__ import annotations

import torch
from torch import Tensor

from sat.config.decoding import DecodingConfig
from sat.decoding.beam_search import beam_search
from sat.decoding.hypothesis import Hypothesis
from sat.decoding.sampling import sample
from sat.models.base import CaptionModel, seeded_attention


@torch.inference_mode()
def generate(
    model: CaptionModel, features: Tensor, options: DecodingConfig
) -> list[list[Hypothesis]]:
    """The `num_return_sequences` best captions of each image, best first.

    `features` is float[B, P, D]. Words and regions are sampled from `options.seed`.
    """
    if len(features) == 0:
        return []
    with seeded_attention(model, options.seed):
        if not options.samples:
            return beam_search(model, features, options)
        generator = torch.Generator(features.device).manual_seed(options.seed)
        return sample(model, features, options, generator)
