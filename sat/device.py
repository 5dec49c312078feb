"""The device, the precision of the matrix products on it, and the scaler for float16."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.amp import GradScaler

from sat.config.training import TrainConfig

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    pass


def resolve_device(name: str) -> torch.device:
    """The device named; "auto" is CUDA where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device is {name!r}, which does not work here ({reason}): use --device cpu"
        ) from error
    return device


DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Matrix products in the precision that the config asks for."""
    dtype = DTYPES.get(config.precision)
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def grad_scaler(config: TrainConfig, device: torch.device) -> GradScaler:
    """What keeps small gradients from vanishing in float16; for other precisions it does nothing.

    `ValueError` when float16 is asked for where it does not pay.
    """
    half = config.precision == "float16"
    if half and device.type != "cuda":
        raise ValueError(
            f"precision is 'float16', which is for CUDA, not for {device.type}: choose bfloat16 "
            "or float32"
        )
    return GradScaler(device.type, enabled=half)
