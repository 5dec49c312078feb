"""The device, the precision of the matrix products on it, and the scaler for float16."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch.amp import GradScaler

from sat import torchrun

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
BFLOAT16_OF_CPU = ("avx512_bf16", "amx_bf16")


def resolve_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one, else the CPU.

    Each process that torchrun starts takes a GPU of its own. Raises `ValueError` where the device
    does not work on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if not torchrun.is_launched():
            return torch.device(name)
    if name == "cuda" and torchrun.is_launched():
        name = f"cuda:{torchrun.local_rank()}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "cuda" and torchrun.is_launched():
            torch.cuda.set_device(device)  # so that plain "cuda" means this GPU
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device is {name!r}, which does not work here ({reason}): use --device cpu"
        ) from error
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """The precision of that name; "auto" is bfloat16 where the device has it, else float32.

    CUDA has it from Ampere on; a processor if torch lists AVX512-BF16 or AMX among its
    capabilities, which older versions of torch do not list. "tf32" is set here, for the process.
    Raises `ValueError` for float16 or tf32 on another device than CUDA, where they gain nothing.
    """
    if name in ("float16", "tf32") and device.type != "cuda":
        raise ValueError(
            f"precision is {name!r}, which is for CUDA, not for {device.type}: choose bfloat16 "
            "or float32"
        )
    if name == "tf32":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if name != "auto":
        return name
    found = False
    if device.type == "cuda":
        found = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        found = any(torch.cpu.get_capabilities().get(kind) for kind in BFLOAT16_OF_CPU)
    return "bfloat16" if found else "float32"


def resolve_dtype(precision: str, device: torch.device | str) -> torch.dtype:
    """The dtype of the weights of a captioner that does not learn, as `resolve_precision`."""
    return DTYPES.get(resolve_precision(precision, resolve_device(str(device))), torch.float32)


def keep_random_state(device: torch.device) -> AbstractContextManager[None]:
    """A block after which torch's generators, of the CPU and of a GPU, are as they were before."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A block whose matrix products are in `precision`: float32, bfloat16 or float16."""
    dtype = DTYPES.get(precision)
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def grad_scaler(precision: str, device: torch.device) -> GradScaler:
    """Loss scaling that keeps small float16 gradients above zero; without effect otherwise."""
    half = precision == "float16"
    return GradScaler(device.type, enabled=half)
