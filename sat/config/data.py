"""Options of preparation: how images and captions become input files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sat.config.checks import check, check_choices
from sat.config.model import Preprocessing


@dataclass(frozen=True)
class InputFilesConfig:
    """How photos and captions are prepared: `create_input_files.py` makes its flags from these."""

    dataset: Literal["coco", "flickr8k", "flickr30k", "shapes"] = "coco"
    """says where photos lie below the image folder, and begins the names of the files"""
    captions_per_image: int = 5
    """of each image: more are sampled from, fewer are repeated"""
    min_word_freq: int = 5
    """words seen less often become <unk> (the tutorial's 5 is 6 here: it keeps more than 5)"""
    vocabulary_size: int | None = None
    """keep this many words, the most frequent, and leave min_word_freq aside (the paper: 10000)"""
    vocabulary_splits: Literal["train", "all"] = "train"
    """train: count the words of the training captions; all: of every caption, as the tutorial"""
    tokenizer: str | None = None
    """store a tokenizer's pieces, not words: tokenizer.json, folder, Hub id, or train a new one"""
    tokenizer_size: int = 8192
    """pieces at most, of a new one"""
    max_len: int = 50
    """words (pieces with a tokenizer); training leaves longer captions out"""
    image_size: int = Preprocessing.size
    """side of the square pictures, in pixels"""
    resize: Literal["squash", "crop", "inner_crop"] = Preprocessing.resize
    """squash: ignore the aspect ratio; crop: the central square; inner_crop: 7/8 of its side"""
    workers: int | None = None
    """threads that decode and resize; one for each core when empty"""
    seed: int = 123
    """of the sampling of captions"""
    on_bad_image: Literal["error", "skip"] = "error"
    """what a missing or unreadable photo gets: an error, or it is left out and named in the log"""

    def __post_init__(self) -> None:
        check_choices(self)
        positive = "give a whole number of at least 1"
        for name in ("captions_per_image", "min_word_freq", "max_len", "tokenizer_size"):
            check(getattr(self, name) >= 1, name, getattr(self, name), positive)
        for name in ("workers", "vocabulary_size"):
            value = getattr(self, name)
            check(value is None or value >= 1, name, value, positive)
        _ = self.preprocessing  # checks its own share

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(size=self.image_size, resize=self.resize)

    @property
    def name(self) -> str:
        """The common part of the files' names."""
        words = f"{self.min_word_freq}_min_word_freq"
        if self.vocabulary_size is not None:
            words = f"{self.vocabulary_size}_words"
        words = "tokenizer" if self.tokenizer else words
        return f"{self.dataset}_{self.captions_per_image}_cap_per_img_{words}"

    @property
    def vocabulary_file(self) -> str:
        return f"{'TOKENIZER' if self.tokenizer else 'WORDMAP'}_{self.name}.json"
