"""The tokenizer of a language model as a vocabulary: subword tokens to ids and back.

It has the methods of the word map (`Vocabulary`), so that prepared files, training and decoding
work with either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sat.atomic_io import atomic_write_text, write_json
from sat.data.annotations.record import Record
from sat.data.annotations.words import is_of_script_without_blanks
from sat.data.tokenizer_files import (
    FILE,
    PATTERNS,
    is_token,
    read_tokenizer,
    read_values,
    special_ids,
)
from sat.data.vocabulary import IDS_SUFFIX
from sat.hub import local_folder
from sat.reading import reading

END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = {
    "start_id": (END_OF_TEXT, "[CLS]", "<s>"),
    "end_id": (END_OF_TEXT, "[SEP]", "</s>"),
    "pad_id": (END_OF_TEXT, "[PAD]", "<pad>"),
}
UNKNOWNS = ("[UNK]", "<unk>")


class SubwordTokenizer:
    """A tokenizer with the start, end and padding tokens that captions need.

    GPT-2 has one special token, `<|endoftext|>`, which starts, ends and pads; padding is known by
    the length alone. Tokens without one of the `ids` (start_id, end_id, pad_id) are found by the
    names that GPT-2, BERT and RoBERTa give them. Raises `ValueError` for a tokenizer without them,
    and for ids that are not its own.
    """

    FILE = FILE

    def __init__(self, tokenizer: Tokenizer, ids: Mapping[str, int] | None = None) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self._named = {key: self._by_name(names) for key, names in SPECIAL_TOKENS.items()}
        found = self._named | dict(ids or {})
        for key, names in SPECIAL_TOKENS.items():
            if found[key] is None:
                purpose = key.removesuffix("_id")
                raise ValueError(f"the tokenizer has no {purpose} token: it needs one of {names}")
            if not is_token(tokenizer, found[key]):
                raise ValueError(f"{key} is {found[key]!r}: the tokenizer has no such token")
        self.start_id, self.end_id, self.pad_id = (cast(int, found[key]) for key in SPECIAL_TOKENS)
        self.unk_id = self._by_name(UNKNOWNS)

    @classmethod
    def train(cls, captions: Iterable[str], size: int) -> SubwordTokenizer:
        """Train a byte-level BPE of at most `size` tokens, as GPT-2 uses, on the captions."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(captions, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: str | Path, generation: dict[str, Any] | None = None) -> SubwordTokenizer:
        """Load a tokenizer.json, a folder that holds one (or its older files), or a Hub id.

        The files beside it say which tokens start, end and pad (`special_ids`, where `generation`
        is explained). Raises `ValueError` if the tokenizer cannot be read.
        """
        path = local_folder(path, only=PATTERNS)
        tokenizer = read_tokenizer(path)
        if path.is_dir():
            return cls(tokenizer, special_ids(path, tokenizer, generation))
        beside = path.with_suffix(IDS_SUFFIX)
        if not beside.exists():
            return cls(tokenizer)
        with reading(beside, "prepare the data again"):
            return cls(tokenizer, read_values(beside))

    def save(self, path: str | Path) -> None:
        """Write the tokenizer as JSON, whole or not at all.

        Start, end and padding that are not found by name are written beside it (`IDS_SUFFIX`).
        """
        ids = {key: getattr(self, key) for key in SPECIAL_TOKENS}
        beside = Path(path).with_suffix(IDS_SUFFIX)
        if ids == self._named:
            beside.unlink(missing_ok=True)
        else:
            write_json(beside, ids)
        atomic_write_text(path, self.tokenizer.to_str(pretty=True))

    def split(self, words: Sequence[str]) -> tuple[str, ...]:
        """Split the words of a caption, joined by blanks, into tokens."""
        encoded = self.tokenizer.encode(" ".join(words), add_special_tokens=False)
        return tuple(encoded.tokens)

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """The ids of the start, the tokens (of `split`) and the end."""
        tokens = list(tokens)
        ids: list[Any] = [self.tokenizer.token_to_id(token) for token in tokens]
        if None in ids:
            raise ValueError(f"{tokens} are not all tokens of this tokenizer: split first")
        return [self.start_id, *ids, self.end_id]

    def words(self, ids: Iterable[int]) -> list[str]:
        """The whole words up to the end, without start and padding."""
        return self.words_and_lengths(ids)[0]

    def words_and_lengths(self, ids: Iterable[int]) -> tuple[list[str], list[int]]:
        """The whole words up to the end, and the number of tokens of each.

        Words are what blanks separate in the text, so that pieces ("##s", bytes of a character) are
        joined. In a script without blanks (Chinese, Japanese, Thai ...) each token is a word, if it
        holds whole characters.
        """
        tokens = self._without_special(ids)
        texts = [self.tokenizer.decode(tokens[:end]) for end in range(len(tokens) + 1)]
        words: list[str] = []
        lengths: list[int] = []
        start = 0  # of the word, in tokens
        for end in range(1, len(tokens) + 1):
            if end < len(tokens) and not _is_word_border(texts[start], texts[end], texts[end + 1]):
                continue
            word = texts[end].removeprefix(texts[start]).strip()
            if word or not words:
                words.append(word)
                lengths.append(end - start)
            else:  # a blank at the end belongs to the word before it
                lengths[-1] += end - start
            start = end
        return words, lengths

    def decode(self, ids: Iterable[int]) -> str:
        """The caption up to the end."""
        return self.tokenizer.decode(self._without_special(ids)).strip()

    def special(self, number: int) -> str:
        """The text of a special token."""
        token = self.tokenizer.id_to_token(number)
        if token is None:
            raise ValueError(f"token {number} is not one of this tokenizer's {len(self)} tokens")
        return token

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, SubwordTokenizer)
            and all(getattr(self, key) == getattr(other, key) for key in SPECIAL_TOKENS)
            and self.tokenizer.to_str() == other.tokenizer.to_str()
        )

    def _without_special(self, ids: Iterable[int]) -> list[int]:
        kept: list[int] = []
        for token in map(int, ids):
            if token == self.end_id and (kept or self.end_id != self.start_id):
                break
            if token not in (self.start_id, self.pad_id):
                kept.append(token)
        return kept

    def _by_name(self, names: tuple[str, ...]) -> int | None:
        """The id of the first of these names that the tokenizer has."""
        ids = map(self.tokenizer.token_to_id, names)
        return next((number for number in ids if number is not None), None)


def tokenize_records(
    records: Iterable[Record], tokenizer: str, size: int
) -> tuple[list[Record], SubwordTokenizer]:
    """Split the captions of all records into subword tokens; return the tokenizer too.

    `tokenizer` is an argument of `SubwordTokenizer.load`, or "train": a new one of at most `size`
    tokens is trained on the captions of the training split.
    """
    records = list(records)
    if tokenizer == "train":
        training = (record for record in records if record.split == "train")
        captions = (" ".join(words) for record in training for words in record.captions)
        subwords = SubwordTokenizer.train(captions, size)
    else:
        subwords = SubwordTokenizer.load(tokenizer)
    tokenized = [
        replace(record, captions=tuple(map(subwords.split, record.captions))) for record in records
    ]
    return tokenized, subwords


def _is_word_border(before: str, text: str, longer: str) -> bool:
    """Whether a word ends with `text`, which one more token makes `longer`.

    `before` is the text without that word.
    """
    word, rest = text.removeprefix(before), longer.removeprefix(text)
    if not longer.startswith(text) or not word.strip() or not rest:
        return False  # in the middle of a character, or nothing to see yet
    return any(char.isspace() or is_of_script_without_blanks(char) for char in (word[-1], rest[0]))
