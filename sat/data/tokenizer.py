"""The tokenizer of a language model as a vocabulary: subword tokens to ids and back.

It has the methods of the word map (`Vocabulary`), so that prepared files, training and decoding
work with either.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sat.atomic_io import atomic_write_text
from sat.data.annotations.record import Record

END_OF_TEXT = "<|endoftext|>"
STARTS = (END_OF_TEXT, "[CLS]", "<s>")
ENDS = (END_OF_TEXT, "[SEP]", "</s>")
PADS = (END_OF_TEXT, "[PAD]", "<pad>")
UNKNOWNS = ("[UNK]", "<unk>")


class SubwordTokenizer:
    """A tokenizer with the start, end and padding tokens that captions need.

    GPT-2 has one special token, `<|endoftext|>`, which starts, ends and pads; padding is known by
    the length alone. The special tokens of BERT and RoBERTa are found by name. Raises `ValueError`
    for a tokenizer without them.
    """

    FILE = "tokenizer.json"

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self.start_id, self.end_id = (
            self._special_id("start", STARTS),
            self._special_id("end", ENDS),
        )
        self.pad_id = self._special_id("padding", PADS)
        unknown = [tokenizer.token_to_id(name) for name in UNKNOWNS]
        self.unk_id: int | None = next((number for number in unknown if number is not None), None)

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
    def load(cls, path: str | Path) -> SubwordTokenizer:
        """Load a tokenizer.json, a folder that holds one (or GPT-2's older files), or a Hub id.

        Raises `ValueError` if none of them can be read.
        """
        path = Path(path)
        if path.is_dir() and not (path / cls.FILE).exists() and (path / "merges.txt").exists():
            return cls(_older_files(path))
        file = path / cls.FILE if path.is_dir() else path
        try:
            exists = file.exists() or path.is_dir()
            read = Tokenizer.from_file if exists else Tokenizer.from_pretrained
            tokenizer = read(str(file))
        except Exception as error:  # the only kind that this package raises
            raise ValueError(
                f"{path}: is not a tokenizer ({str(error).splitlines()[0]}): give a {cls.FILE}, "
                "a folder that holds one, or a Hub id that can be reached"
            ) from error
        return cls(tokenizer)

    def save(self, path: str | Path) -> None:
        """Write the tokenizer as JSON, whole or not at all."""
        atomic_write_text(path, self.tokenizer.to_str(pretty=True))

    def split(self, words: Sequence[str]) -> tuple[str, ...]:
        """Split the words of a caption, joined by blanks, into tokens."""
        encoded = self.tokenizer.encode(" ".join(words), add_special_tokens=False)
        return tuple(encoded.tokens)

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """The ids of the start, the tokens (of `split`) and the end."""
        tokens = list(tokens)
        ids = [
            number for token in tokens if (number := self.tokenizer.token_to_id(token)) is not None
        ]
        if len(ids) < len(tokens):
            raise ValueError(f"{tokens} are not all tokens of this tokenizer: split first")
        return [self.start_id, *ids, self.end_id]

    def words(self, ids: Iterable[int]) -> list[str]:
        """The text of each id up to the end, without start and padding."""
        return [self.tokenizer.decode([token]).strip() for token in self._without_special(ids)]

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
            and self.tokenizer.to_str() == other.tokenizer.to_str()
        )

    __hash__ = None  # type: ignore[assignment]  # equal by content

    def _without_special(self, ids: Iterable[int]) -> list[int]:
        kept: list[int] = []
        for token in map(int, ids):
            if token == self.end_id and (kept or self.end_id != self.start_id):
                break
            if token not in (self.start_id, self.pad_id):
                kept.append(token)
        return kept

    def _special_id(self, purpose: str, names: tuple[str, ...]) -> int:
        """The id of the first of these names that the tokenizer has."""
        ids = (self.tokenizer.token_to_id(name) for name in names)
        first = next((number for number in ids if number is not None), None)
        if first is None:
            raise ValueError(f"the tokenizer has no {purpose} token: it needs one of {names}")
        return first


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


def _older_files(folder: Path) -> Tokenizer:
    """GPT-2's tokenizer from vocab.json and merges.txt."""
    model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer
