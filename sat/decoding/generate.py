"""Generate captions by beam search or sampling, as the options say."""

from __future__ import annotations

import torch
from torch import Tensor

from sat.config.decoding import DecodingConfig
from sat.decoding.beam_search import beam_search
from sat.decoding.hypothesis import Hypothesis, StepDecoder
from sat.decoding.sampling import sample


@torch.inference_mode()
def generate(
    model: StepDecoder,
    features: Tensor,
    options: DecodingConfig,
    generator: torch.Generator | None = None,
) -> list[list[Hypothesis]]:
    """For each image its `num_return_sequences` captions, best first, from features float[B, P, D].

    `generator` (on the features' device) draws the words when sampling; one is made from
    `options.seed` when there is none.
    """
    if len(features) == 0:
        return []
    if not options.samples:
        return beam_search(model, features, options)
    if generator is None:
        generator = torch.Generator(features.device).manual_seed(options.seed)
    return sample(model, features, options, generator)
