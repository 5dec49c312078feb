"""The tokens that start, end and pad captions, as the files beside a tokenizer say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sat.reading import read_object

IDS = {
    "start_id": ("decoder_start_token_id", "bos_token_id"),
    "end_id": ("eos_token_id",),
    "pad_id": ("pad_token_id",),
}
NAMES = {
    "start_id": ("bos_token", "cls_token"),
    "end_id": ("eos_token", "sep_token"),
    "pad_id": ("pad_token",),
}


def special_ids(
    folder: Path, tokenizer: Any, generation: dict[str, Any] | None = None
) -> dict[str, int]:
    """Those of start_id, end_id and pad_id that the files of a Hugging Face folder give.

    They are looked up in generation_config.json (or in `generation`, its values), in config.json,
    and by name in tokenizer_config.json and special_tokens_map.json, in this order. Ids that the
    `tokenizers.Tokenizer` does not have are passed over. Of several end tokens the first counts; it
    also pads where no other token does.
    """
    config = _read(folder / "config.json")
    decoder = config.get("decoder") or {}
    if generation is None:
        generation = _read(folder / "generation_config.json")
    by_name = _read(folder / "special_tokens_map.json") | _read(folder / "tokenizer_config.json")

    def known(*values: Any) -> list[int]:
        firsts = (value[0] if isinstance(value, list) and value else value for value in values)
        numbers = (value for value in firsts if isinstance(value, int) and value >= 0)
        return [number for number in numbers if tokenizer.id_to_token(number) is not None]

    found: dict[str, int] = {}
    for purpose, keys in IDS.items():
        names = (_content(by_name.get(name)) for name in NAMES[purpose])
        ids = known(
            *(generation.get(key) for key in keys),
            *(source.get(key) for key in keys for source in (config, decoder)),
            *(tokenizer.token_to_id(name) for name in names if name is not None),
            *([found["end_id"]] if purpose == "pad_id" and "end_id" in found else []),
        )
        if ids:
            found[purpose] = ids[0]
    return found


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _read(path: Path) -> dict[str, Any]:
    return read_object(path, "copy it again") if path.exists() else {}
