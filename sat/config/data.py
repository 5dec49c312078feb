"""Options of preparation: how images and captions become input files."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Literal

from sat.config.checks import check, check_fields, check_paths
from sat.config.decoding import SEEDS
from sat.config.model import Preprocessing

Texts = str | tuple[str, ...]
PATHS = ("annotations", "karpathy_json", "image_folder", "splits", "boxes", "output_folder")
"""fields that hold paths"""


def as_list(texts: Texts) -> list[str]:
    """The texts of a flag; a YAML file may hold one without brackets."""
    return [texts] if isinstance(texts, str) else list(texts)


@dataclass(frozen=True)
class InputFilesConfig:
    """How images and captions are prepared; `sat-prepare` makes its flags from this."""

    dataset: str = "coco"
    """any name: the names of the files begin with it; shapes without annotations draws scenes"""
    captions_per_image: int = 5
    """captions of each image: more are sampled from, fewer are repeated"""
    min_word_freq: int = 5
    """rarer words become <unk> (the tutorial's 5 is 6 here: it keeps more than 5)"""
    vocabulary_size: int | None = None
    """keep this many of the most frequent words and ignore min_word_freq (the paper: 10000)"""
    vocabulary_splits: Literal["train", "all"] = "train"
    """train: count the words of the training captions; all: of every caption, as the tutorial"""
    tokenizer: str | None = None
    """store subword tokens, not words: a tokenizer.json, folder, Hub id, or train (a new one)"""
    tokenizer_size: int = 8192
    """tokens of a new tokenizer, at most"""
    max_len: int = 50
    """words (tokens with a tokenizer); training leaves longer captions out"""
    image_size: int = Preprocessing.size
    """side of the square images, in pixels"""
    resize: str = Preprocessing.resize
    """squash: ignore the aspect ratio; crop: the central square; inner_crop: 7/8 of its side; or
    steps of a Hugging Face processor, such as shortest_edge=256:bicubic,center_crop=224"""
    workers: int | None = None
    """threads that decode and resize; one per core when empty"""
    seed: int = 123
    """for sampling captions"""
    on_bad_image: Literal["error", "skip"] = "error"
    """stop at a missing or unreadable image, or leave it out and name it in the log"""

    def __post_init__(self) -> None:
        check_fields(
            self,
            {
                "[1, 1000]": "captions_per_image",
                "[1, 1e9]": "min_word_freq",
                "[1, 4096]": "max_len image_size",
                "[1, 1e7]": "vocabulary_size tokenizer_size",
                "[1, 1024]": "workers",
                SEEDS: "seed",
            },
        )
        remedy = "give a file, a folder, a Hub id or train"
        check(self.tokenizer != "", "tokenizer", self.tokenizer, remedy)
        fit = re.fullmatch(r"[^\W_][\w.+-]{,99}", self.dataset) is not None
        check(fit, "dataset", self.dataset, "give a name of letters, digits, - and _")
        _ = self.preprocessing  # checks resize

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


@dataclass(frozen=True)
class PrepareConfig(InputFilesConfig):
    """The flags of `sat-prepare`: where things are besides."""

    annotations: Texts = ()
    """files or folders of captions"""
    karpathy_json: str | None = None
    """the same as --annotations, in Karpathy's layout"""
    image_folder: Texts = ()
    """the folders the images are in"""
    format: str | None = None
    """if not recognized: karpathy, coco, json, jsonl, flickr, csv, webdataset, imagefolder or
    text_files"""
    columns: str | None = None
    """names in tables: image=NAME,caption=NAME,split=NAME"""
    splits: Texts = ()
    """Karpathy's JSON, {split: [ids]}, lists"""
    split: str | None = None
    """shares drawn by file name, such as 0.8,0.1,0.1"""
    boxes: Texts = ()
    """objects: COCO's instances_*.json; or none"""
    output_folder: str = "data"
    """gets the files"""
    number: int = 2000
    """scenes that shapes draws"""
    overwrite: bool = False
    """replace an earlier run's files"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_paths(self, PATHS)

    @property
    def input_files(self) -> InputFilesConfig:
        """How images and captions are prepared."""
        names = [item.name for item in fields(InputFilesConfig)]
        return InputFilesConfig(**{name: getattr(self, name) for name in names})
