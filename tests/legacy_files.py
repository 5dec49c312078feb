"""Writes files as the tutorial's training does, in the spelling of several versions of torch.

The classes below stand in for the tutorial's `models.py`: same names, attributes and sizes, no
forward pass. A module `models` exists only while a file is written.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torchvision
from torch import nn


class Encoder(nn.Module):
    def __init__(self, backbone: str, encoded_image_size: int = 14) -> None:
        super().__init__()
        self.enc_image_size = encoded_image_size
        layers = list(torchvision.models.get_model(backbone, weights=None).children())
        self.resnet = nn.Sequential(*layers[:8])
        self.adaptive_pool = nn.AdaptiveAvgPool2d((encoded_image_size, encoded_image_size))


class Attention(nn.Module):
    def __init__(self, encoder_dim: int, decoder_dim: int, attention_dim: int) -> None:
        super().__init__()
        self.encoder_att = nn.Linear(encoder_dim, attention_dim)
        self.decoder_att = nn.Linear(decoder_dim, attention_dim)
        self.full_att = nn.Linear(attention_dim, 1)
        self.relu = nn.ReLU()
        self.softmax = nn.Softmax(dim=1)


class DecoderWithAttention(nn.Module):
    def __init__(self, encoder_dim: int, vocab_size: int = 24, dropout: float = 0.5) -> None:
        super().__init__()
        self.encoder_dim, self.vocab_size = encoder_dim, vocab_size
        self.attention_dim, self.embed_dim, self.decoder_dim = 6, 7, 8
        self.attention = Attention(encoder_dim, self.decoder_dim, self.attention_dim)
        self.embedding = nn.Embedding(vocab_size, self.embed_dim)
        self.dropout = nn.Dropout(p=dropout)
        self.decode_step = nn.LSTMCell(self.embed_dim + encoder_dim, self.decoder_dim)
        self.init_h = nn.Linear(encoder_dim, self.decoder_dim)
        self.init_c = nn.Linear(encoder_dim, self.decoder_dim)
        self.f_beta = nn.Linear(self.decoder_dim, encoder_dim)
        self.sigmoid = nn.Sigmoid()
        self.fc = nn.Linear(self.decoder_dim, vocab_size)


MODELS = (Encoder, Attention, DecoderWithAttention)
for model in MODELS:
    model.__module__ = "models"


def adam(module: nn.Module) -> torch.optim.Adam:
    """An optimizer that has made one step, so that it has state."""
    optimizer = torch.optim.Adam(module.parameters(), lr=4e-4)
    sum((weight * weight).sum() for weight in module.parameters()).backward()
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def checkpoint(backbone: str = "resnet18", *, fine_tuned: bool = False) -> dict[str, Any]:
    """The dictionary that the tutorial saves, after one step."""
    torch.manual_seed(1)
    encoder = Encoder(backbone)
    decoder = DecoderWithAttention(512 if backbone in ("resnet18", "resnet34") else 2048)
    for name, buffer in encoder.named_buffers():
        buffer.fill_(3) if name.endswith("tracked") else buffer.uniform_(0.5, 2)
    return {
        "epoch": 11,
        "epochs_since_improvement": 2,
        "bleu-4": 0.2345,
        "encoder": encoder,
        "decoder": decoder,
        "encoder_optimizer": adam(encoder) if fine_tuned else None,
        "decoder_optimizer": adam(decoder),
    }


@contextlib.contextmanager
def modules(**stand_ins: types.ModuleType) -> Iterator[None]:
    """Modules that can be imported only within this context."""
    with mock.patch.dict(sys.modules, stand_ins):
        yield


def write_zip(path: Path, value: Any) -> Path:
    """A file of torch >= 1.6."""
    with modules(models=sys.modules[__name__]):
        torch.save(value, path)
    return path


def write_old(path: Path, value: Any, pickler: type = pickle.Pickler) -> Path:
    """A file of torch <= 1.5, with the source text of every module class."""
    spelling = types.SimpleNamespace(Pickler=pickler, dump=pickle.dump)
    with modules(models=sys.modules[__name__]):
        torch.save(value, path, pickle_module=spelling, _use_new_zipfile_serialization=False)
    return path


class Backend:
    """Stands in for the object that every module of torch 0.4 carries as `_backend`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return THNN._get_thnn_function_backend, ()


THNN = types.ModuleType("torch.nn.backends.thnn")
THNN._get_thnn_function_backend = types.FunctionType(
    (lambda: Backend()).__code__, {"Backend": Backend}, "_get_thnn_function_backend"
)
THNN._get_thnn_function_backend.__module__ = "torch.nn.backends.thnn"
THNN._get_thnn_function_backend.__qualname__ = "_get_thnn_function_backend"
