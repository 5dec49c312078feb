"""Export a quantized checkpoint to come with the library:

python tools/export_checkpoint.py runs/x/best sat/pretrained/x
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import save_file

from sat.atomic_io import write_json
from sat.checkpoints import native, show_attend_tell
from sat.checkpoints.quantization import quantize
from sat.models.factory import build_model
from sat.models.weights import digest


def export_checkpoint(source: str | Path, target: str | Path) -> None:
    """Write a quantized copy of a checkpoint.

    An encoder that still has its published weights is left out: its SHA-256 is stored instead, and
    checked on loading. A fine-tuned encoder is stored.
    """
    source, target = Path(source), Path(target)
    model, vocabulary, config = native.load(source)
    header = json.loads((source / native.CONFIG).read_text(encoding="utf-8"))
    header.pop("sha256", None)  # of the weights before they are quantized
    frozen = digest(build_model(config, vocabulary).encoder) == digest(model.encoder)
    if frozen:
        header["encoder_sha256"] = digest(model.encoder)
    weights = {
        name: value.contiguous()
        for name, value in model.state_dict().items()
        if not (frozen and name.startswith("encoder."))
    }
    target.mkdir(parents=True, exist_ok=True)
    save_file(quantize(weights), target / native.WEIGHTS)
    write_json(target / native.CONFIG, header)
    shutil.copyfile(source / show_attend_tell.WORD_MAP, target / show_attend_tell.WORD_MAP)


if __name__ == "__main__":
    export_checkpoint(*sys.argv[1:])
