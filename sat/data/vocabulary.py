"""The word map: words of captions to ids and back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from sat.atomic_io import atomic_write_text
from sat.reading import check_regular, reading

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<start>", "<end>"
SPECIAL_WORDS = (PAD, UNKNOWN, START, END)
IDS_SUFFIX = ".ids.json"
"""of the file beside a tokenizer's that holds the ids of its start, end and padding tokens"""


class Vocabulary:
    """The words that a captioner knows, with ids 0 .. n-1, four special words among them.

    Layout and file are the tutorial's: `<pad>` is 0, the words follow in the order of their first
    occurrence, `<unk>`, `<start>` and `<end>` come last. Any other complete numbering works too.
    Raises `ValueError` when `word_map` is not such a map.
    """

    FILE = "word_map.json"

    def __init__(self, word_map: dict[str, int]) -> None:
        _check_word_map(word_map)
        self.word_map = dict(word_map)
        self._word_of = {number: word for word, number in word_map.items()}
        ids = (word_map[word] for word in SPECIAL_WORDS)
        self.pad_id, self.unk_id, self.start_id, self.end_id = ids

    @classmethod
    def build(
        cls, captions: Iterable[Sequence[str]], min_word_freq: int, size: int | None = None
    ) -> Vocabulary:
        """The vocabulary of all words that occur in `captions` at least `min_word_freq` times.

        (The tutorial keeps words that occur *more* often than that, against its documentation.)
        With `size`, keep this many of the most frequent words instead; of equally frequent words
        the first ones are kept. Raises `ValueError` when no word is left.
        """
        seen = Counter(word for caption in captions for word in caption)
        for word in SPECIAL_WORDS:
            del seen[word]
        words = [word for word, count in seen.items() if count >= min_word_freq]
        if size is not None:
            kept = {word for word, _ in seen.most_common(size)}
            words = [word for word in seen if word in kept]
        if not words:
            raise ValueError(
                f"min_word_freq is {min_word_freq}: none of the {len(seen)} different words of the"
                " captions is that frequent; give a smaller number or more captions"
            )
        return cls({word: i for i, word in enumerate((PAD, *words, UNKNOWN, START, END))})

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Load a word map file, ours or the tutorial's; raise `ValueError` if it is not one."""
        with reading(path, "give a WORDMAP_*.json of create_input_files"):
            return cls(json.loads(check_regular(Path(path)).read_text(encoding="utf-8")))

    def save(self, path: str | Path) -> None:
        """Write the word map as JSON in ASCII, which any encoding reads, whole or not at all."""
        atomic_write_text(path, json.dumps(self.word_map))

    def encode(self, words: Iterable[str]) -> list[int]:
        """The ids of `<start>`, the words and `<end>`; an unknown word becomes `<unk>`."""
        ids = (self.word_map.get(word, self.unk_id) for word in words)
        return [self.start_id, *ids, self.end_id]

    def words_and_lengths(self, ids: Iterable[int]) -> tuple[list[str], list[int]]:
        """The words, and the number of tokens of each: one."""
        words = self.words(ids)
        return words, [1] * len(words)

    def words(self, ids: Iterable[int]) -> list[str]:
        """The words up to `<end>`, without `<start>` and `<pad>`; `<unk>` stays."""
        words: list[str] = []
        for number in map(int, ids):
            if number == self.end_id:
                break
            if number not in self._word_of:
                raise ValueError(
                    f"word number {number} is not in this vocabulary of {len(self)} words: use the"
                    " word map that the captioner was trained with"
                )
            if number not in (self.start_id, self.pad_id):
                words.append(self._word_of[number])
        return words

    def decode(self, ids: Iterable[int]) -> str:
        """The caption: its `words`, joined by blanks."""
        return " ".join(self.words(ids))

    def __len__(self) -> int:
        return len(self.word_map)

    def __contains__(self, word: object) -> bool:
        return word in self.word_map

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.word_map == other.word_map


def _check_word_map(word_map: object) -> None:
    """Raise `ValueError` unless `word_map` numbers its words 0 .. n-1, special ones included."""
    if not isinstance(word_map, dict):
        raise ValueError(
            f"the word map is a {type(word_map).__name__}: it must be one object of word: number"
        )
    missing = [word for word in SPECIAL_WORDS if word not in word_map]
    if missing:
        raise ValueError(
            f"the word map lacks {', '.join(missing)}: give a WORDMAP_*.json of create_input_files"
        )
    odd = next((word for word, number in word_map.items() if type(number) is not int), None)
    if odd is not None:
        raise ValueError(f"the word map gives {odd!r} the number {word_map[odd]!r}: not an integer")
    if sorted(word_map.values()) != list(range(len(word_map))):
        raise ValueError(
            f"the word map has {len(word_map)} words, but their numbers are not 0 to"
            f" {len(word_map) - 1}, each once: give a WORDMAP_*.json of create_input_files"
        )
