"""Read a tokenizer, and the tokens that start, end and pad captions, from the files they are in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from sat.reading import read_object

FILE = "tokenizer.json"
PATTERNS = ("*.json", "*.txt", "*.model")
"""files that a tokenizer and its special tokens are read from"""
KIND_OF_FILE = {
    "vocab.txt": "bert",
    "merges.txt": "gpt2",
    "sentencepiece.bpe.model": "xlm-roberta",
    "spiece.model": "t5",
    "tokenizer.model": "",
}
"""kinds of tokenizers by the files that they had before tokenizer.json; one needs no name"""
ID_KEYS = {
    "start_id": ("decoder_start_token_id", "bos_token_id"),
    "end_id": ("eos_token_id",),
    "pad_id": ("pad_token_id",),
}
TOKEN_KEYS = {
    "start_id": ("bos_token", "cls_token"),
    "end_id": ("eos_token", "sep_token"),
    "pad_id": ("pad_token",),
}


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json, or of a folder (older files too).

    Raises `ValueError` if it cannot be read.
    """
    folder = path.is_dir()
    try:
        if folder and not (path / FILE).exists():
            return _older_files(path)
        return Tokenizer.from_file(str(path / FILE if folder else path))
    except Exception as error:  # the only kind that tokenizers raises
        raise ValueError(
            f"{path}: is not a tokenizer ({str(error).splitlines()[0]}): give a {FILE}, "
            "a folder that holds one, or a Hub id that can be reached"
        ) from error


def _older_files(folder: Path) -> Tokenizer:
    """The tokenizer of vocab.txt, vocab.json and merges.txt, or a sentencepiece model.

    Its kind is that of tokenizer_config.json, else that of the (decoder's) config.json, else it is
    told by the names of the files.
    """
    from transformers import AutoTokenizer
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    chosen: dict[str, Any] = {}
    if "tokenizer_class" not in read_values(folder / "tokenizer_config.json"):
        files = [kind for name, kind in KIND_OF_FILE.items() if (folder / name).exists()]
        if not files:
            raise ValueError(f"it holds none of {FILE}, {', '.join(KIND_OF_FILE)}")
        config = read_values(folder / "config.json")
        kind = config.get("decoder", config).get("model_type")
        if kind := kind if kind in TOKENIZER_MAPPING_NAMES else files[0]:
            chosen["tokenizer_type"] = kind
    loaded = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, **chosen
    )
    tokenizer: Tokenizer = loaded.backend_tokenizer
    return tokenizer


def special_ids(
    folder: Path, tokenizer: Any, generation: dict[str, Any] | None = None
) -> dict[str, int]:
    """The start, end and padding ids that the files of a Hugging Face folder give.

    They are looked up in generation_config.json (or in `generation`, its values), in config.json,
    and by name in tokenizer_config.json and special_tokens_map.json, in this order. Ids that the
    `tokenizers.Tokenizer` does not have are passed over. Of several end tokens the first counts; it
    also pads where no other token does.
    """
    config = read_values(folder / "config.json")
    decoder = config.get("decoder") or {}
    if generation is None:
        generation = read_values(folder / "generation_config.json")
    by_name = read_values(folder / "special_tokens_map.json")
    by_name |= read_values(folder / "tokenizer_config.json")
    found: dict[str, int] = {}
    for purpose, keys in ID_KEYS.items():
        tokens = (by_name.get(name) for name in TOKEN_KEYS[purpose])
        names = (token.get("content") if isinstance(token, dict) else token for token in tokens)
        values = (
            *(generation.get(key) for key in keys),
            *(source.get(key) for key in keys for source in (config, decoder)),
            *(tokenizer.token_to_id(name) for name in names if name is not None),
            found.get("end_id") if purpose == "pad_id" else None,
        )
        firsts = (value[0] if isinstance(value, list) and value else value for value in values)
        known = [value for value in firsts if is_token(tokenizer, value)]
        if known:
            found[purpose] = known[0]
    return found


def is_token(tokenizer: Any, number: Any) -> bool:
    """True for the id of a token of the `tokenizers.Tokenizer`."""
    fits = type(number) is int and 0 <= number < 2**32
    return fits and tokenizer.id_to_token(number) is not None


def read_values(path: Path) -> dict[str, Any]:
    """The object in a file of JSON; empty where there is no such file."""
    return read_object(path, "copy it again") if path.exists() else {}
