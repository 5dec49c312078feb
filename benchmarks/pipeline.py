"""The whole captioner, encoder and decoder, with the same weights on both sides."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from benchmarks import pair
from sat.config.model import DecoderConfig, EncoderConfig, ModelConfig
from sat.data.vocabulary import SPECIAL_WORDS, Vocabulary
from sat.models.encoder import Encoder
from sat.models.factory import build_model
from sat.models.show_attend_tell import ShowAttendTell

WORDS = 2539
"""of Flickr8k's word map"""
RESIDUAL = 0.2
"""spread of what a residual block adds"""


class Scale(NamedTuple):
    """How much is measured, and of which encoder."""

    batch: int = 32
    images: int = 64
    side: int = 256
    backbone: str = "resnet101"
    rounds: int = 2
    ours: int = 8  # batches of ours a round, since they are short


QUICK = Scale(batch=4, images=8, side=64, backbone="resnet18", rounds=1, ours=2)


def our_model(
    scale: Scale, quick: bool, device: torch.device, words: int = WORDS
) -> ShowAttendTell:
    """Encoder pooled up to 14×14, and the tutorial's decoder, random but sane."""
    sizes = pair.SMALL if quick else pair.sizes_for(quick)
    words = 60 if quick else words
    names = [SPECIAL_WORDS[0], *map(str, range(words - 4)), *SPECIAL_WORDS[1:]]
    decoder = DecoderConfig(
        sizes.attention,
        sizes.embedding,
        sizes.hidden,
        **pair.TUTORIAL,  # type: ignore[arg-type]
    )
    encoder = EncoderConfig(backbone=scale.backbone, weights="none", encoded_image_size=14)
    config = ModelConfig(encoder=encoder, decoder=decoder)
    model = build_model(config, Vocabulary({name: i for i, name in enumerate(names)})).to(device)
    measure_statistics(model.encoder.body, torch.randn(4, 3, scale.side, scale.side, device=device))
    pair.teach_to_end(model.decoder)
    return model.eval()


@torch.no_grad()
def measure_statistics(body: nn.Module, images: Tensor) -> None:
    """Give every batch norm the statistics of these images, and features the size of real ones.

    Random weights with the statistics of nothing blow up over a hundred layers. Where residual
    blocks add as much as they were given, features come to several hundred: attention saturates,
    and the reference's gradients become denormal numbers, on which a CPU works ten times as long.
    """
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train().momentum = None
        if isinstance(module, (BasicBlock, Bottleneck)):
            last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
            last.weight.fill_(RESIDUAL)
    body(images)
    body.eval()


def reference_models(model: ShowAttendTell, scale: Scale) -> tuple[Encoder, nn.Module]:
    """The same two networks on the reference's side."""
    device = next(model.parameters()).device
    encoder = Encoder(14, backbone=scale.backbone, weights="none").to(device)
    encoder.load_state_dict(model.encoder.state_dict())
    own = model.decoder
    decoder = pair.ReferenceDecoder(
        own.attention.encoder_att.out_features,
        own.embedding.embedding_dim,
        own.decode_step.hidden_size,
        own.vocab_size,
        model.encoder.encoder_dim,
        **pair.TUTORIAL,
    ).to(device)
    decoder.load_state_dict(own.state_dict())
    return encoder.eval(), decoder.eval()
