"""The two halves of a captioner as plain functions of tensors, which an exporter can trace.

B images with one row each, P regions, D features, T words, V vocabulary, S side in pixels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sat.models.base import CaptionModel
from sat.models.decoder_state import State
from sat.models.show_attend_tell import ShowAttendTell
from sat.ops.ragged_rows import RaggedRows


class ExportedParts(NamedTuple):
    """The halves of a captioner, and the names of the tensors that pass between them."""

    encoder: nn.Module
    """images uint8[B, 3, S, S] -> the state before the first word, as a tuple"""
    step: nn.Module
    """tokens int64[B], *state -> logits float[B, V], alphas float[B, P], *the states that change"""
    state: tuple[str, ...]
    changing: tuple[str, ...]


class _Part(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model


class _Encoder(_Part):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        state = self.model.start(self.model.encode(images))
        return state.features, state.projected, state.hidden, state.cell


class _Step(_Part):
    def forward(
        self, tokens: Tensor, features: Tensor, projected: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, ...]:
        rows = RaggedRows.one_each(tokens.shape[0], tokens.device)
        state = State(features, projected, hidden, cell, rows)
        decoder = self.model.decoder
        output, state = decoder.step_with_map(tokens, state, decoder.test_attention)
        return output.logits, output.alphas, state.hidden, state.cell


def show_attend_tell_parts(model: ShowAttendTell) -> ExportedParts:
    state = ("features", "projected", "hidden", "cell")
    return ExportedParts(_Encoder(model), _Step(model), state, ("hidden", "cell"))


class _VitEncoder(_Part):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.model.encode(images)
        return features, torch.full((images.shape[0], 1), self.model.pad_id)


class _VitStep(_Part):
    def forward(self, tokens: Tensor, features: Tensor, words: Tensor) -> tuple[Tensor, ...]:
        words = torch.cat([words[:, :-1], tokens.unsqueeze(1), words[:, -1:]], dim=1)
        lengths = torch.full((words.shape[0],), words.shape[1])
        output = self.model(features, words, lengths)
        return output.logits[:, -1], output.alphas[:, -1], words


def vit_gpt2_parts(model: CaptionModel) -> ExportedParts:
    """The halves of a vision transformer and a language model.

    The step reads all words anew, since it keeps no cache of keys and values. Its state is the
    words so far, with a last column of padding.
    """
    return ExportedParts(_VitEncoder(model), _VitStep(model), ("features", "words"), ("words",))
