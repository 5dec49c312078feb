"""The tokens that start, end and pad captions, as the files beside a tokenizer say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

TokenToId = Callable[[str], int | None]

IDS = {
    "start_id": ("decoder_start_token_id", "bos_token_id"),
    "end_id": ("eos_token_id",),
    "pad_id": ("pad_token_id",),
}
NAMES = {
    "start_id": ("bos_token", "cls_token"),
    "end_id": ("eos_token", "sep_token"),
    "pad_id": ("pad_token", "eos_token", "sep_token"),
}


def special_ids(
    folder: Path, token_to_id: TokenToId, generation: dict[str, Any] | None = None
) -> dict[str, int]:
    """Those of start_id, end_id and pad_id that the files of a Hugging Face folder give.

    They are looked up in generation_config.json (or the values `generation`), config.json, and by
    name in tokenizer_config.json and special_tokens_map.json, in this order. Of several end tokens
    the first counts; it also pads where generation has no other.
    """
    config = _read(folder / "config.json")
    decoder = config.get("decoder") or {}
    if generation is None:
        generation = _read(folder / "generation_config.json")
    by_id = {
        key: _first(config.get(key), decoder.get(key)) for keys in IDS.values() for key in keys
    }
    by_name = _read(folder / "special_tokens_map.json") | _read(folder / "tokenizer_config.json")
    found: dict[str, int | None] = {}
    for purpose, keys in IDS.items():
        tokens = (_content(by_name.get(name)) for name in NAMES[purpose])
        found[purpose] = _first(
            *(generation.get(key) for key in keys),
            *(by_id[key] for key in keys),
            *(token_to_id(token) for token in tokens if token is not None),
        )
    if found["pad_id"] is None:
        found["pad_id"] = found["end_id"]
    return {purpose: number for purpose, number in found.items() if number is not None}


def _first(*values: Any) -> int | None:
    """The first value that is an id, or the first of the first list of ids."""
    for value in values:
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, int) and value >= 0:
            return value
    return None


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
