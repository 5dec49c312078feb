"""Read a tokenizer from the files that hold it in one way or another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from sat.data.special_tokens import read_values

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
    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, **chosen)
    tokenizer: Tokenizer = loaded.backend_tokenizer
    return tokenizer
