"""Make the checkpoint that comes with the library: python -m sat.ship runs/x/best sat/shipped"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

from sat import checkpoint
from sat.build import build
from sat.data.features import digest
from sat.packing import pack


def ship(source: str | Path, target: str | Path) -> None:
    """Write a packed copy of a checkpoint whose encoder is frozen and comes from elsewhere.

    The encoder's weights are left out; their SHA-256 is stored, and loading holds the encoder it
    finds to it.
    """
    source, target = Path(source), Path(target)
    model, vocabulary, config = checkpoint.load(source)
    header = json.loads((source / checkpoint.CONFIG).read_text(encoding="utf-8"))
    header["encoder_sha256"] = digest(model.encoder)
    if digest(build(config, vocabulary).encoder) != header["encoder_sha256"]:
        raise ValueError(
            f"the encoder of {source} is not {config.encoder.backbone} with weights "
            f"{config.encoder.weights!r} any more: a fine-tuned encoder has to stay in the file"
        )
    target.mkdir(parents=True, exist_ok=True)
    weights = load_file(source / checkpoint.WEIGHTS)
    kept = {name: value for name, value in weights.items() if not name.startswith("encoder.")}
    save_file(pack(kept), target / checkpoint.WEIGHTS)
    checkpoint.write_json(target / checkpoint.CONFIG, header)
    shutil.copyfile(source / checkpoint.WORD_MAP, target / checkpoint.WORD_MAP)


if __name__ == "__main__":
    ship(*sys.argv[1:])
