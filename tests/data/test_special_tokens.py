"""Start, end and padding tokens of a folder, from each of its files in turn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from sat.data.tokenizer import SubwordTokenizer
from sat.data.tokenizer_files import special_ids

WORDS = ("<|endoftext|>", "[CLS]", "[SEP]", "[BOS]", "[EOS]", "[PAD]", "a", "dog")
FILES = {
    "generation_config": {"decoder_start_token_id": 3, "eos_token_id": [4, 6], "pad_token_id": 5},
    "config": {
        "eos_token_id": 2,
        "pad_token_id": 50256,  # a default that this tokenizer does not have
        "decoder": {"bos_token_id": 1, "decoder_start_token_id": -1},
    },
    "tokenizer_config": {"bos_token": "[BOS]", "eos_token": {"content": "[EOS]"}},
    "special_tokens_map": {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"},
}


def tokenizer() -> Tokenizer:
    ids = {word: number for number, word in enumerate(WORDS)}
    return Tokenizer(models.WordLevel(ids, unk_token="a"))


def write(folder: Path, *names: str) -> Path:
    folder.mkdir()
    tokenizer().save(str(folder / "tokenizer.json"))
    for name in names:
        (folder / f"{name}.json").write_text(json.dumps(FILES[name]))
    return folder


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (list(FILES), {"start_id": 3, "end_id": 4, "pad_id": 5}),
        (list(FILES)[1:], {"start_id": 1, "end_id": 2, "pad_id": 5}),
        (list(FILES)[2:], {"start_id": 3, "end_id": 4, "pad_id": 5}),
        (["tokenizer_config"], {"start_id": 3, "end_id": 4, "pad_id": 4}),
        (["special_tokens_map"], {"start_id": 1, "end_id": 2, "pad_id": 5}),
        ([], {}),
    ],
    ids=str,
)
def test_special_ids_come_from_the_first_file_that_has_them(tmp_path, names, expected):
    folder = write(tmp_path / "folder", *names)
    assert special_ids(folder, tokenizer()) == expected
    loaded = SubwordTokenizer.load(folder)
    by_name = {"start_id": 0, "end_id": 0, "pad_id": 0}
    found = {"start_id": loaded.start_id, "end_id": loaded.end_id, "pad_id": loaded.pad_id}
    assert found == by_name | expected


def test_special_ids_of_given_values_win_over_the_file(tmp_path):
    folder = write(tmp_path / "folder", "generation_config")
    values: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    found = special_ids(folder, tokenizer(), values)
    assert found == {"start_id": 1, "end_id": 2, "pad_id": 2}


def test_special_ids_of_a_broken_file_raise_value_error_with_its_name(tmp_path):
    folder = write(tmp_path / "folder")
    (folder / "config.json").write_text("[1, 2")
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        special_ids(folder, tokenizer())


def test_tokenizer_saved_elsewhere_keeps_its_special_ids(tmp_path):
    """As prepared files do, whose folder has no other file of Hugging Face."""
    loaded = SubwordTokenizer.load(write(tmp_path / "folder", "generation_config"))
    loaded.save(tmp_path / "TOKENIZER_data.json")
    again = SubwordTokenizer.load(tmp_path / "TOKENIZER_data.json")
    assert again == loaded
    assert (again.start_id, again.end_id, again.pad_id) == (3, 4, 5)
    plain = SubwordTokenizer(tokenizer())
    assert plain != loaded
    plain.save(tmp_path / "TOKENIZER_data.json")
    assert SubwordTokenizer.load(tmp_path / "TOKENIZER_data.json") == plain
    assert [path.name for path in tmp_path.glob("TOKENIZER*")] == ["TOKENIZER_data.json"]
