"""The well-known tutorial's checkpoint: `BEST_checkpoint_*.pth.tar`, with a ResNet as its encoder.

The file holds whole pickled modules and optimizers. `inert_pickle` shows them as records, without
running anything of the file; here their weights and sizes are picked out and held to each other.
Neither the tutorial's `models.py` nor torchvision is needed, and optimizer state is not read.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from sat.checkpoints.safe_pickle import (
    RECORDS,
    RESAVE_HINT,
    InertObject,
    ReadStorage,
    UnsafeCheckpointError,
    is_container,
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

# Kind of block and blocks in each stage -> name, and channels of the last stage.
_BACKBONES = {
    ("BasicBlock", (2, 2, 2, 2)): ("resnet18", 512),
    ("BasicBlock", (3, 4, 6, 3)): ("resnet34", 512),
    ("Bottleneck", (3, 4, 6, 3)): ("resnet50", 2048),
    ("Bottleneck", (3, 4, 23, 3)): ("resnet101", 2048),
    ("Bottleneck", (3, 8, 36, 3)): ("resnet152", 2048),
}
_SIZES = ("attention_dim", "embed_dim", "decoder_dim", "encoder_dim", "vocab_size")


@dataclass(frozen=True)
class TutorialCheckpoint:
    """What a tutorial checkpoint says: weights by name, sizes, and how far training had come.

    `encoder` has the file's names with 'body.' in place of 'resnet.' ('body.0.weight'), `decoder`
    the file's own; `fine_tuned` tells that the encoder had an optimizer.
    """

    encoder: dict[str, torch.Tensor]
    decoder: dict[str, torch.Tensor]
    backbone: str
    encoded_image_size: int
    attention_dim: int
    embed_dim: int
    decoder_dim: int
    encoder_dim: int
    vocab_size: int
    dropout: float
    epoch: int
    bleu4: float | None
    fine_tuned: bool


def is_tutorial(path: str | os.PathLike[str]) -> bool:
    """True when `path` is a file that starts as a file of `torch.save` does, of any version."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return is_container(file)


def read_tutorial(path: str | os.PathLike[str]) -> TutorialCheckpoint:
    """Everything a tutorial checkpoint holds but its optimizers' state; runs nothing of the file.

    Raises `ValueError`, one sentence with the path, for a file that is damaged, names anything that
    such a checkpoint has no use for, or is of another architecture.
    """
    with open(path, "rb") as file:
        try:
            return _checkpoint(*open_container(file))
        except UnsafeCheckpointError as reason:
            raise ValueError(f"cannot load {path}: {reason}") from None
        except Exception as error:  # pickle and zipfile raise of every kind on damaged bytes
            raise ValueError(
                f"cannot load {path}: it is truncated or damaged "
                f"({type(error).__name__}: {error}), copy or download it again"
            ) from error


def model_config(legacy: TutorialCheckpoint) -> ModelConfig:
    """The config that builds this model again: the tutorial's reading, in the sizes of the file."""
    encoder = EncoderConfig(
        backbone=legacy.backbone,
        weights="none",
        encoded_image_size=legacy.encoded_image_size,
    )
    decoder = DecoderConfig(
        attention_dim=legacy.attention_dim,
        embed_dim=legacy.embed_dim,
        decoder_dim=legacy.decoder_dim,
        dropout=legacy.dropout,
        attention="soft",
        activation="relu",
        gate="vector",
        initial_state="linear",
        output="linear",
    )
    photos = Preprocessing(size=256, resize="squash", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return ModelConfig(encoder=encoder, decoder=decoder, preprocessing=photos)


def _checkpoint(value: Any, read: ReadStorage) -> TutorialCheckpoint:
    held = sorted(map(str, value)) if type(value) is dict else type(value).__name__
    needed = type(value) is dict and {"epoch", "encoder", "decoder"} <= set(value)
    require(needed, f"it holds {reprlib.repr(held)}, not epoch, encoder and decoder: {RESAVE_HINT}")
    encoder, decoder = value["encoder"], value["decoder"]
    for part, kind in ((encoder, "Encoder"), (decoder, "DecoderWithAttention")):
        found = type(part).__name__
        require(type(part) is RECORDS["models", kind], f"its {kind} is a {found}: {RESAVE_HINT}")
    backbone, channels = _backbone(encoder)
    sizes = {name: _number(_state(decoder, "decoder"), name) for name in _SIZES}
    told = f"its encoder_dim is {sizes['encoder_dim']}, but {backbone} gives {channels}"
    require(sizes["encoder_dim"] == channels, f"{told}: {RESAVE_HINT}")
    dropout = _state(_part(decoder, "decoder", "_modules").get("dropout"), "decoder.dropout")
    bleu4 = value.get("bleu-4")
    return TutorialCheckpoint(
        encoder=_encoder_tensors(encoder, backbone, read),
        decoder=_decoder_tensors(decoder, sizes, read),
        backbone=backbone,
        encoded_image_size=_number(_state(encoder, "encoder"), "enc_image_size"),
        **sizes,
        dropout=float(_number(dropout, "p", float, int, least=0)),
        epoch=_number(value, "epoch", least=0),
        bleu4=None if bleu4 is None else float(_number(value, "bleu-4", float, int, least=0)),
        fine_tuned=value.get("encoder_optimizer") is not None,
    )


def _number(values: dict[str, Any], name: str, *kinds: type, least: int = 1) -> Any:
    """The entry of `values`, held to be a number of one of the kinds (int by default)."""
    value = values.get(name)
    fits = type(value) in (kinds or (int,)) and value >= least
    require(fits, f"its {name} is {reprlib.repr(value)}, no number from {least}: {RESAVE_HINT}")
    return value


def _state(module: Any, name: str) -> dict[str, Any]:
    kept = isinstance(module, InertObject) and type(module.state) is dict
    require(kept, f"its {name} is no module but {type(module).__name__}: {RESAVE_HINT}")
    return module.state


def _part(module: Any, name: str, part: str) -> dict[str, Any]:
    """One of the dictionaries of a module: `_parameters`, `_buffers` or `_modules`."""
    found = _state(module, name).get(part)
    if type(found) is RECORDS["collections", "OrderedDict"]:
        found = found.items
    named = type(found) is dict and all(type(key) is str for key in found)
    require(named, f"its {name} has no {part} by name: {RESAVE_HINT}")
    return found


def _records(module: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Name and record of every parameter and buffer of a module, in the order of its state dict."""
    require(id(module) not in seen, f"its {name} occurs twice: {RESAVE_HINT}")
    seen.add(id(module))
    for part in ("_parameters", "_buffers"):
        for key, value in _part(module, name, part).items():
            if value is not None:
                yield f"{name}.{key}", value
    for key, child in _part(module, name, "_modules").items():
        yield from _records(child, f"{name}.{key}", seen)


def _backbone(encoder: InertObject) -> tuple[str, int]:
    """Name of the ResNet and the channels of its features, told from its blocks."""
    resnet = _part(encoder, "encoder", "_modules").get("resnet")
    layers = _part(resnet, "encoder.resnet", "_modules")
    stages = [_part(layers.get(i), f"encoder.resnet.{i}", "_modules") for i in "4567"]
    kinds = sorted({type(block).__name__ for stage in stages for block in stage.values()})
    counts = tuple(map(len, stages))
    known = _BACKBONES.get(("/".join(kinds), counts))
    found = f"its encoder has {counts} blocks of kind {'/'.join(kinds)}"
    require(known is not None, f"{found}: only ResNet-18, 34, 50, 101 and 152 can be loaded")
    return known


def _encoder_tensors(
    encoder: InertObject, backbone: str, read: ReadStorage
) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, record in _records(encoder, "encoder", set()):
        place = name.removeprefix("encoder.resnet.")
        require(place != name, f"its {name} is no part of {backbone}: {RESAVE_HINT}")
        tensors[f"body.{place}"] = read_tensor(name, record, read)
    width = tensors["body.4.0.conv1.weight"].shape[0]
    other = f"the first block of its encoder is {width} wide, not 64 as in {backbone}"
    require(width == 64, f"{other}: wide ResNets and ResNeXts cannot be loaded")
    return tensors


def _decoder_tensors(
    decoder: InertObject, sizes: dict[str, int], read: ReadStorage
) -> dict[str, torch.Tensor]:
    tensors = {
        name.removeprefix("decoder."): read_tensor(name, record, read)
        for name, record in _records(decoder, "decoder", set())
    }
    shapes = _decoder_shapes(**sizes)
    odd = sorted(shapes.keys() ^ tensors.keys())
    require(
        not odd, f"its decoder lacks, or should not have, {', '.join(odd)[:200]}: {RESAVE_HINT}"
    )
    for name, shape in shapes.items():
        odds = f"its decoder.{name} is {tuple(tensors[name].shape)}, its sizes tell {shape}"
        require(tensors[name].shape == shape, f"{odds}: {RESAVE_HINT}")
    return tensors


def _decoder_shapes(
    *, attention_dim: int, embed_dim: int, decoder_dim: int, encoder_dim: int, vocab_size: int
) -> dict[str, tuple[int, ...]]:
    linear = {
        "attention.encoder_att": (attention_dim, encoder_dim),
        "attention.decoder_att": (attention_dim, decoder_dim),
        "attention.full_att": (1, attention_dim),
        "init_h": (decoder_dim, encoder_dim),
        "init_c": (decoder_dim, encoder_dim),
        "f_beta": (encoder_dim, decoder_dim),
        "fc": (vocab_size, decoder_dim),
    }
    gates = 4 * decoder_dim
    return {
        **{f"{name}.weight": shape for name, shape in linear.items()},
        **{f"{name}.bias": shape[:1] for name, shape in linear.items()},
        "embedding.weight": (vocab_size, embed_dim),
        "decode_step.weight_ih": (gates, embed_dim + encoder_dim),
        "decode_step.weight_hh": (gates, decoder_dim),
        "decode_step.bias_ih": (gates,),
        "decode_step.bias_hh": (gates,),
    }
