"""sat: Show, Attend and Tell. Captions of images, and where the model looked for each word.

The public names are imported when they are first used, so that `--help` need not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Attention": "sat.models.attention",
    "CaptionDataset": "sat.data.dataset",
    "Captioner": "sat.captioner",
    "DecoderWithAttention": "sat.models.decoder",
    "Encoder": "sat.models.encoder",
    "ShowAttendTell": "sat.models.show_attend_tell",
    "load": "sat.captioner",
    "visualize_att": "sat.visualize",
}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sat' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
