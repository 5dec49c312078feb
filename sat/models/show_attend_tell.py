"""ShowAttendTell: an encoder and a recurrent decoder over one vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from sat.config.model import IMAGENET_MEAN, IMAGENET_STD
from sat.config.training import StageConfig
from sat.models.base import FrozenPart, Normalize, Output
from sat.models.decoder import DecoderWithAttention, State
from sat.models.encoder import Encoder


class ShowAttendTell(nn.Module):
    """A captioner with visual attention (Xu et al. 2015): images in, words out, step by step.

    B images (or beams), C cells, P regions, D features, T words, V vocabulary. Decoding drives
    `start`, `step` and `reorder`; training calls the module itself, their unrolled form. `mean` and
    `std` (RGB, of values in 0..1) normalize the pixels.
    """

    positions = None
    """captions may have any length"""

    def __init__(
        self,
        *,
        encoder: Encoder,
        decoder: DecoderWithAttention,
        start_id: int,
        end_id: int,
        pad_id: int,
        unk_id: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.normalize = Normalize(mean, std)
        self.start_id, self.end_id, self.pad_id, self.unk_id = start_id, end_id, pad_id, unk_id

    def encode(self, images: Tensor) -> Tensor:
        """Features float[B, C, D] of pixels uint8[B, 3, H, W], or of normalized float images."""
        return self._cells(self.encoder.maps(self._normalized(images)))

    def encode_frozen(self, images: Tensor) -> Tensor:
        """Activations float[B, h, w, C] of the frozen blocks; `encode_cached` continues there."""
        frozen = self.encoder.body[: self.encoder.learns_from]
        return frozen(self._normalized(images)).permute(0, 2, 3, 1)

    def encode_cached(self, cached: Tensor) -> Tensor:
        """Features float[B, C, D] from cached ones, or from activations float[B, h, w, C]."""
        if cached.ndim == 3:
            return cached.float()
        rest = self.encoder.body[self.encoder.learns_from :]
        return self._cells(rest(cached.float().permute(0, 3, 1, 2)))

    def frozen_part(self) -> FrozenPart | None:
        if not any(weight.requires_grad for weight in self.encoder.parameters()):
            return FrozenPart(self.encoder, self.encode)
        first = self.encoder.learns_from
        return FrozenPart(self.encoder.body[:first], self.encode_frozen) if first > 0 else None

    def set_trainable(self, stage: StageConfig, *, embeddings: bool) -> None:
        """Let the decoder learn, and the encoder from the stage's block on where it has a rate.

        `embeddings`: whether the word vectors learn.
        """
        self.encoder.fine_tune(stage.fine_tunes, stage.encoder_from_block)
        self.decoder.fine_tune_embeddings(embeddings)

    def compile_training(self) -> None:
        # of all blocks together, as they share their code; since torch 2.7 also recompile_limit
        torch._dynamo.config.cache_size_limit = 256
        for block in self.encoder.body:
            block.compile()
        self.decoder.compiled = True

    def set_attention_mode(self, mode: str) -> None:
        self.decoder.set_attention_mode(mode)

    def shared_attention_mode(self) -> AbstractContextManager[None]:
        return self.decoder.shared_attention_mode()

    @property
    def samples_attention(self) -> bool:
        return self.decoder.samples_attention

    @property
    def baseline(self) -> Tensor | None:
        return self.decoder.baseline

    def _normalized(self, images: Tensor) -> Tensor:
        return self.normalize(images) if images.dtype == torch.uint8 else images

    def _cells(self, maps: Tensor) -> Tensor:
        """Features of the body's maps float[B, D, h, w]; attention itself enlarges squares."""
        height, width = maps.shape[2:]
        if height != width or not self.decoder.attention.enlarges(height * width):
            maps = self.encoder.pool(maps)
        return maps.flatten(2).transpose(1, 2)

    def start(self, features: Tensor) -> State:
        return self.decoder.start(features)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        return self.decoder.step(tokens, state)

    def reorder(self, state: State, index: Tensor) -> State:
        return self.decoder.reorder(state, index)

    def forward(
        self, features: Tensor, captions: Tensor, lengths: Tensor, *, output_attentions: bool = True
    ) -> Output:
        """Logits float[B, T-1, V] and maps float[B, T-1, P] of captions int[B, T].

        The recurrence needs the maps, so they are there without `output_attentions` too.
        """
        return self.decoder(features, captions, lengths)
