"""The well-known tutorial's checkpoint: `BEST_checkpoint_*.pth.tar`, with a ResNet encoder.

The file holds whole pickled modules and optimizers. `safe_pickle` reads them as inert objects,
without running anything of the file; the weights and sizes are taken from these. Neither the
tutorial's `models.py` nor torchvision is needed, and optimizer state is not read.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sat.checkpoints.safe_pickle import (
    INERT_TYPES,
    RESAVE_HINT,
    InertObject,
    ReadStorage,
    Storage,
    UnsafeCheckpointError,
    find_opener,
    open_container,
    read_tensor,
    require,
)
from sat.config.model import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DecoderConfig,
    EncoderConfig,
    ModelConfig,
    Preprocessing,
)
from sat.data.vocabulary import Vocabulary
from sat.models.base import CaptionModel
from sat.models.decoder import DecoderWithAttention
from sat.models.factory import build_model

# Kind of block and number of blocks in each stage -> name.
RESNETS: dict[tuple[str, tuple[int, ...]], str] = {
    ("BasicBlock", (2, 2, 2, 2)): "resnet18",
    ("BasicBlock", (3, 4, 6, 3)): "resnet34",
    ("Bottleneck", (3, 4, 6, 3)): "resnet50",
    ("Bottleneck", (3, 4, 23, 3)): "resnet101",
    ("Bottleneck", (3, 8, 36, 3)): "resnet152",
}
CHANNELS = {"BasicBlock": 512, "Bottleneck": 2048}
"""of the features of a ResNet, by its kind of block"""
CHOICES: dict[str, Any] = {
    "activation": "relu",
    "gate": "vector",
    "initial_state": "linear",
    "output": "linear",
}
"""the tutorial's reading of the paper"""


@dataclass(frozen=True)
class TutorialCheckpoint:
    config: ModelConfig
    """builds the model of this checkpoint"""
    vocab_size: int
    weights: dict[str, Tensor]
    """by our names: the file's, with "encoder.body." in place of "encoder.resnet." """


def is_tutorial(path: str | os.PathLike[str]) -> bool:
    """True when `path` is a file written by `torch.save`, of any version."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return find_opener(file) is not None


def load(
    path: str | os.PathLike[str], vocabulary: Vocabulary
) -> tuple[CaptionModel, Vocabulary, ModelConfig]:
    """Load model, vocabulary and config of a tutorial checkpoint, in evaluation mode.

    Raises `ValueError` for a word map of another size, and as `read_tutorial` does.
    """
    checkpoint = read_tutorial(path)
    if len(vocabulary) != checkpoint.vocab_size:
        raise ValueError(
            f"word map has {len(vocabulary)} words, checkpoint expects {checkpoint.vocab_size}: "
            "pass the word map it was trained with"
        )
    model = build_model(checkpoint.config, vocabulary)
    try:
        model.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        raise ValueError(f"cannot load {path}: {_one_line(error)}: {RESAVE_HINT}") from error
    return model.eval(), vocabulary, checkpoint.config


def read_tutorial(path: str | os.PathLike[str]) -> TutorialCheckpoint:
    """Read weights and sizes of a tutorial checkpoint; nothing of the file is run.

    Raises `ValueError`, one sentence with the path, for a file that is damaged, names anything
    that such a checkpoint does not need, or is of another architecture.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe could be read for ever
        raise ValueError(f"cannot load {path}: it is no regular file: {RESAVE_HINT}")
    with open(path, "rb") as file:
        try:
            value, read = open_container(file)
            return _checkpoint(value, _limited(read, os.fstat(file.fileno()).st_size))
        except UnsafeCheckpointError as reason:
            raise ValueError(f"cannot load {path}: {reason}") from None
        except Exception as error:  # damaged bytes make pickle and zipfile raise almost anything
            raise ValueError(
                f"cannot load {path}: it is truncated or damaged "
                f"({type(error).__name__}: {_one_line(error)}), copy or download it again"
            ) from error


def _limited(read: ReadStorage, size: int) -> ReadStorage:
    """The reader, which gives at most twice the file's size: a storage may be named many times."""
    left = 2 * size

    def limited(storage: Storage) -> bytes:
        nonlocal left
        left -= storage.nbytes
        require(left >= 0, f"its tensors are larger than twice the file: {RESAVE_HINT}")
        return read(storage)

    return limited


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _checkpoint(value: Any, read: ReadStorage) -> TutorialCheckpoint:
    held = sorted(map(str, value)) if type(value) is dict else type(value).__name__
    complete = type(value) is dict and {"encoder", "decoder"} <= set(value)
    require(complete, f"it holds {reprlib.repr(held)}, not encoder and decoder: {RESAVE_HINT}")
    encoder, decoder = value["encoder"], value["decoder"]
    for part, kind in ((encoder, "Encoder"), (decoder, "DecoderWithAttention")):
        found = type(part).__name__
        require(type(part) is INERT_TYPES["models", kind], f"its {kind} is {found}: {RESAVE_HINT}")
    backbone, channels = _backbone(encoder)
    pool = _state(encoder, "encoder").get("enc_image_size")
    pools = type(pool) is int and pool > 0
    require(pools, f"its enc_image_size is {reprlib.repr(pool)}, not positive: {RESAVE_HINT}")
    state = _state(decoder, "decoder")
    names = ("attention_dim", "embed_dim", "decoder_dim")
    sizes: dict[str, Any] = {name: state.get(name) for name in names}
    weights = {
        name.replace("encoder.resnet.", "encoder.body."): read_tensor(name, tensor, read)
        for part, name in ((encoder, "encoder"), (decoder, "decoder"))
        for name, tensor in _tensors(part, name, set())
    }
    _check_decoder(weights, vocab_size=state.get("vocab_size"), encoder_dim=channels, **sizes)
    dropout = _state(_part(decoder, "decoder", "_modules").get("dropout"), "decoder.dropout")
    config = ModelConfig(
        encoder=EncoderConfig(backbone=backbone, weights="none", encoded_image_size=pool),
        decoder=DecoderConfig(**sizes, **CHOICES, dropout=float(dropout["p"])),
        preprocessing=Preprocessing(256, "squash", IMAGENET_MEAN, IMAGENET_STD),
    )
    return TutorialCheckpoint(config, state["vocab_size"], weights)


def _check_decoder(weights: dict[str, Tensor], **sizes: Any) -> None:
    """Compare names and shapes with a decoder of these sizes, which takes no memory."""
    with torch.device("meta"):
        expected = DecoderWithAttention(**sizes, **CHOICES).state_dict()
    names = {name for name in weights if name.startswith("decoder.")}
    for name in sorted(names | {f"decoder.{name}" for name in expected}):
        found = tuple(weights[name].shape) if name in weights else "missing"
        inner = name.removeprefix("decoder.")
        wanted = tuple(expected[inner].shape) if inner in expected else "unknown"
        require(found == wanted, f"its {name} is {found}, by its sizes {wanted}: {RESAVE_HINT}")


def _state(module: Any, name: str) -> dict[str, Any]:
    """The attributes of a module."""
    is_module = isinstance(module, InertObject) and type(module.state) is dict
    require(is_module, f"its {name} is no module but {type(module).__name__}: {RESAVE_HINT}")
    return module.state


def _part(module: Any, name: str, part: str) -> dict[str, Any]:
    """One of the dictionaries of a module: `_parameters`, `_buffers` or `_modules`."""
    found: Any = _state(module, name).get(part)
    if type(found) is INERT_TYPES["collections", "OrderedDict"]:
        found = found.items
    by_name = type(found) is dict and all(type(key) is str for key in found)
    require(by_name, f"its {name} has no {part} by name: {RESAVE_HINT}")
    return found


def _tensors(module: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Name and description of each parameter and buffer, in the order of the state dict."""
    require(id(module) not in seen, f"its {name} occurs twice: {RESAVE_HINT}")
    seen.add(id(module))
    for part in ("_parameters", "_buffers"):
        for key, value in _part(module, name, part).items():
            if value is not None:
                yield f"{name}.{key}", value
    for key, child in _part(module, name, "_modules").items():
        yield from _tensors(child, f"{name}.{key}", seen)


def _backbone(encoder: InertObject) -> tuple[str, int]:
    """Name of the ResNet, by its blocks, and the channels of its features."""
    resnet = _part(encoder, "encoder", "_modules").get("resnet")
    layers = _part(resnet, "encoder.resnet", "_modules")
    stages = [_part(layers.get(i), f"encoder.resnet.{i}", "_modules") for i in "4567"]
    kinds = {type(block).__name__ for stage in stages for block in stage.values()}
    kind, counts = "/".join(sorted(kinds)), tuple(map(len, stages))
    remedy = "only ResNet-18, 34, 50, 101 and 152 can be loaded"
    known = (kind, counts) in RESNETS
    require(known, f"its encoder has {counts} blocks of kind {kind}: {remedy}")
    return RESNETS[kind, counts], CHANNELS[kind]
