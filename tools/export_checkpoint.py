"""Export a quantized checkpoint to come with the library:

python tools/export_checkpoint.py runs/x/best sat/pretrained/x
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from jsonargparse import auto_cli
from safetensors.torch import save_file
from torch import Tensor

from sat.atomic_io import write_json
from sat.checkpoints import native, show_attend_tell

INT8_ABOVE_ELEMENTS = 500_000


def quantize(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with 11 significant bits (half precision), those of large matrices with 8.

    A large matrix is stored as int8 with one scale a row; `show_attend_tell.dequantize` reads both.
    """
    quantized = {}
    for name, value in weights.items():
        if value.ndim == 2 and value.numel() > INT8_ABOVE_ELEMENTS:
            scale = value.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
            quantized[name] = (value / scale).round().to(torch.int8)
            quantized[name + show_attend_tell.SCALE] = scale
        else:
            quantized[name] = value.half() if value.is_floating_point() else value
    return quantized


def export_checkpoint(source: str | Path, target: str | Path) -> None:
    """Write a quantized copy of a checkpoint."""
    source, target = Path(source), Path(target)
    model = native.load(source)[0]
    header = json.loads((source / native.CONFIG).read_text(encoding="utf-8"))
    header.pop("sha256", None)  # of the weights before they are quantized
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    target.mkdir(parents=True, exist_ok=True)
    save_file(quantize(weights), target / native.WEIGHTS)
    write_json(target / native.CONFIG, header)
    shutil.copyfile(source / show_attend_tell.WORD_MAP, target / show_attend_tell.WORD_MAP)


if __name__ == "__main__":
    auto_cli(export_checkpoint)
