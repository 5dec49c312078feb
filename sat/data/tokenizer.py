"""The tokenizer of a language model as a vocabulary: pieces of words to whole numbers and back.

It answers to the same names as the word map (`Vocabulary`), so that the prepared files, training
and decoding do not care which of the two they have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sat.atomic_io import atomic_write
from sat.data.annotations import Record

END_OF_TEXT = "<|endoftext|>"
STARTS = (END_OF_TEXT, "[CLS]", "<s>")
ENDS = (END_OF_TEXT, "[SEP]", "</s>")
PADS = (END_OF_TEXT, "[PAD]", "<pad>")
UNKNOWNS = ("[UNK]", "<unk>")


class SubwordTokenizer:
    """The pieces a tokenizer knows, its start and end before and after every caption.

    GPT-2 has one special token, `<|endoftext|>`, which starts, ends and pads: padding can only be
    told by length. BERT's and RoBERTa's own ones are found by their names. Raises `ValueError`
    for a tokenizer without them.
    """

    FILE = "tokenizer.json"

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self.start_id, self.end_id = self._special("start", STARTS), self._special("end", ENDS)
        self.pad_id = self._special("padding", PADS)
        unknown = [tokenizer.token_to_id(name) for name in UNKNOWNS]
        self.unk_id: int | None = next((number for number in unknown if number is not None), None)

    @classmethod
    def train(cls, captions: Iterable[str], size: int) -> SubwordTokenizer:
        """A byte-level BPE of at most `size` pieces, as GPT-2's, learnt from the captions."""
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
        """The tokenizer of a tokenizer.json, of a folder that holds one (or GPT-2's older files).

        What is neither is asked of the Hub by its id. Raises `ValueError` for anything else.
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
                f"{path}: is no tokenizer ({str(error).splitlines()[0]}): give a {cls.FILE}, "
                "a folder that holds one, or a Hub id that can be reached"
            ) from error
        return cls(tokenizer)

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json; it is whole or absent."""
        with atomic_write(path) as file:
            file.write_text(self.tokenizer.to_str(pretty=True), encoding="utf-8")

    def split(self, words: Sequence[str]) -> tuple[str, ...]:
        """The pieces of a caption's words, joined by blanks."""
        encoded = self.tokenizer.encode(" ".join(words), add_special_tokens=False)
        return tuple(encoded.tokens)

    def encode(self, pieces: Iterable[str]) -> list[int]:
        """The numbers of the start, the pieces (of `split`) and the end."""
        numbers = [self.tokenizer.token_to_id(piece) for piece in pieces]
        if None in numbers:
            raise ValueError(f"{list(pieces)} are not all pieces of this tokenizer: split first")
        return [self.start_id, *numbers, self.end_id]

    def words(self, ids: Iterable[int]) -> list[str]:
        """The text of each of `ids` up to the end, without start and padding."""
        return [self.tokenizer.decode([number]).strip() for number in self._said(ids)]

    def decode(self, ids: Iterable[int]) -> str:
        """The caption that `ids` spell up to the end."""
        return self.tokenizer.decode(self._said(ids)).strip()

    def special(self, number: int) -> str:
        """How the tokenizer writes one of its special tokens."""
        return self.tokenizer.id_to_token(number)

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, SubwordTokenizer)
            and self.tokenizer.to_str() == other.tokenizer.to_str()
        )

    __hash__ = None  # type: ignore[assignment]  # equal by content

    def _said(self, ids: Iterable[int]) -> list[int]:
        said: list[int] = []
        for number in map(int, ids):
            if number == self.end_id and (said or self.end_id != self.start_id):
                break
            if number not in (self.start_id, self.pad_id):
                said.append(number)
        return said

    def _special(self, what: str, names: tuple[str, ...]) -> int:
        numbers = [self.tokenizer.token_to_id(name) for name in names]
        found = [number for number in numbers if number is not None]
        if not found:
            raise ValueError(f"the tokenizer has no {what} token: it needs one of {names}")
        return found[0]


def tokenize_records(
    records: Iterable[Record], tokenizer: str, size: int
) -> tuple[list[Record], SubwordTokenizer]:
    """The records with each caption's words cut into pieces, and the tokenizer that did it.

    `tokenizer` is what `SubwordTokenizer.load` takes, or "train": a new one of at most `size`
    pieces is learnt from the captions of the training split.
    """
    records = list(records)
    if tokenizer == "train":
        training = (record for record in records if record.split == "train")
        captions = (" ".join(words) for record in training for words in record.captions)
        subwords = SubwordTokenizer.train(captions, size)
    else:
        subwords = SubwordTokenizer.load(tokenizer)
    cut = (tuple(map(subwords.split, record.captions)) for record in records)
    return [replace(record, captions=pieces) for record, pieces in zip(records, cut)], subwords


def _older_files(folder: Path) -> Tokenizer:
    """GPT-2's tokenizer from vocab.json and merges.txt."""
    model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer
