"""Weights of a backbone: read from a local file without executing it, and filled in strictly."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sat.reading import reading


def digest(module: nn.Module, salt: str = "") -> str:
    """SHA-256 of a module's parameters and buffers, their names, and `salt`."""
    found = hashlib.sha256(salt.encode())
    for name, value in sorted(module.state_dict().items()):
        found.update(name.encode())
        values = value.detach().cpu().clone(memory_format=torch.contiguous_format).flatten()
        found.update(values.view(torch.uint8).numpy().tobytes())  # numpy has no bfloat16
    return found.hexdigest()


def read(path: str, choices: tuple[str, ...] = ("default",)) -> dict[str, Tensor]:
    """The state dict in a local file, read without executing anything in it."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"weights is {path!r}, and there is no such file: give none, a published set "
            f"({', '.join(choices)}), or the path of a state dict (.pth, .safetensors)"
        )
    with reading(path, "give a state dict (.pth, .safetensors)"):
        if Path(path).suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"weights {path} is not a state dict: save model.state_dict() to a file")
    return state


def fill(
    model: nn.Module, state: dict[str, Tensor], *, backbone: str, source: str, head: tuple[str, ...]
) -> None:
    """Give all of `model` but its head (children of these names) its weights, strictly."""
    body = OrderedDict((k, v) for k, v in state.items() if k.split(".")[0] not in head)
    # what MNASNet refuses to load without, and safetensors files do not carry
    body._metadata = {"": {"version": 2}}  # type: ignore[attr-defined]
    try:
        result = model.load_state_dict(body, strict=False)
    except RuntimeError as error:
        detail = str(error).splitlines()[1].strip()
        raise ValueError(f"weights {source} do not fit {backbone}: {detail}") from error
    missing = [key for key in result.missing_keys if key.split(".")[0] not in head]
    for problem, keys in (("lack", missing), ("have the unknown key", result.unexpected_keys)):
        if keys:
            raise ValueError(
                f"weights {source} do not fit {backbone}: they {problem} {keys[0]!r} (and "
                f"{len(keys) - 1} more); give a state dict saved from this backbone"
            )
