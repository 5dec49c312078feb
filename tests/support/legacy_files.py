"""Writes files as the tutorial's training does, in the spelling of several versions of torch.

The classes below stand in for the tutorial's `models.py`: same names, attributes and sizes, no
forward pass. A module `models` exists only while a file is written.
"""

from __future__ import annotations

import copy
import functools
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
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


def checkpoint(
    backbone: str = "resnet18", *, fine_tuned: bool = False, slim: bool = False
) -> dict[str, Any]:
    """The dictionary that the tutorial saves, after one step; slim: convolutions of one channel."""
    return copy.deepcopy(_checkpoint(backbone, fine_tuned, slim))


@functools.cache
def _checkpoint(backbone: str, fine_tuned: bool, slim: bool) -> dict[str, Any]:
    torch.manual_seed(1)
    encoder = Encoder(backbone)
    decoder = DecoderWithAttention(512 if backbone in ("resnet18", "resnet34") else 2048)
    for name, buffer in encoder.named_buffers():
        buffer.fill_(3) if name.endswith("tracked") else buffer.uniform_(0.5, 2)
    for weight in encoder.parameters():
        weight.data = weight.data[:, :1].clone() if slim and weight.ndim == 4 else weight.data
    return {
        "epoch": 11,
        "epochs_since_improvement": 2,
        "bleu-4": 0.2345,
        "encoder": encoder,
        "decoder": decoder,
        "encoder_optimizer": adam(encoder) if fine_tuned else None,
        "decoder_optimizer": adam(decoder),
    }


def write_zip(path: Path, value: Any) -> Path:
    """A file of torch >= 1.6."""
    with mock.patch.dict(sys.modules, {"models": sys.modules[__name__]}):
        torch.save(value, path)
    return path


def write_old(path: Path, value: Any, pickler: type = pickle.Pickler) -> Path:
    """A file of torch <= 1.5, with the source text of every module class."""
    spelling = types.SimpleNamespace(__name__="pickle", Pickler=pickler, dump=pickle.dump)
    with mock.patch.dict(sys.modules, {"models": sys.modules[__name__]}):
        torch.save(value, path, pickle_module=spelling, _use_new_zipfile_serialization=False)
    return path


def _get_thnn_function_backend() -> None:
    """Only its name is ever written."""


_get_thnn_function_backend.__module__ = "torch.nn.backends.thnn"


class Backend:
    """Stands in for what every module of torch 0.4 carries as `_backend`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _get_thnn_function_backend, ()


class PicklerOf04(pickle.Pickler):
    """Spells parameters as torch 0.4 did."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, nn.Parameter):
            return nn.Parameter, (value.data, value.requires_grad)
        return NotImplemented


def write_0_4(path: Path, value: dict[str, Any]) -> Path:
    """An emulated file of torch 0.4; changes `value`."""
    for part in ("encoder", "decoder"):
        for module in value[part].modules():
            vars(module)["_backend"] = Backend()
            for kind in ("_parameters", "_buffers", "_modules"):
                vars(module)[kind] = OrderedDict(vars(module)[kind])
    for state in value["decoder_optimizer"].state.values():
        state["step"] = 1
    with mock.patch.dict(sys.modules, {"torch.nn.backends.thnn": sys.modules[__name__]}):
        return write_old(path, value, PicklerOf04)


def raw_zip(path: Path, data: bytes) -> Path:
    """A zip container around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("checkpoint/data.pkl", data)
        archive.writestr("checkpoint/version", "3")
    return path


def raw_old(path: Path, data: bytes) -> Path:
    """The older container around any pickle, without storages."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    pickles = [pickle.dumps(item, protocol=2) for item in head]
    path.write_bytes(b"".join([*pickles, data, pickle.dumps([], protocol=2)]))
    return path


class View:
    """A tensor of the file, described as the test likes: offset, size and stride may be wrong."""

    def __init__(self, numel: int, offset: Any, size: Any, stride: Any) -> None:
        self.storage = torch.storage.TypedStorage(
            wrap_storage=torch.zeros(numel).untyped_storage(), dtype=torch.float32, _internal=True
        )
        self.place = (offset, size, stride)

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild = torch._utils._rebuild_tensor_v2
        return rebuild, (self.storage, *self.place, False, OrderedDict())
