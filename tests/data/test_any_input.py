"""Readers of files under any input (Hypothesis): a value, or a sentence with the file's name."""

from __future__ import annotations

import contextlib
import io
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sat.checkpoints import tutorial
from sat.config.checks import from_dict, to_dict
from sat.config.decoding import DecodingConfig
from sat.config.model import DecoderConfig, ModelConfig, Preprocessing
from sat.config.training import TrainConfig
from sat.data.annotations.formats import read_annotations
from sat.data.checks import check_features, read_captions, read_images_header, read_lengths
from sat.data.image_files import read_image
from sat.data.manifest import check_manifest, manifest_path
from sat.data.tokenizer import SubwordTokenizer
from sat.data.vocabulary import SPECIAL_WORDS, Vocabulary
from sat.data.word_vectors import load_embeddings
from sat.recipe_file import read_recipe

quick = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
WORDS = Vocabulary({word: i for i, word in enumerate((*SPECIAL_WORDS, "dog"))})
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


def manifest(path: Path) -> None:
    path.rename(manifest_path(path.parent, "a"))
    (path.parent / "f").write_text("x")
    try:
        check_manifest(path.parent, "a", [path.parent / "f"])
    finally:
        manifest_path(path.parent, "a").rename(path)


READERS: dict[str, Callable[[Path], Any]] = {
    "word map": Vocabulary.load,
    "captions": read_captions,
    "lengths": lambda path: read_lengths(path, 9),
    "manifest": manifest,
    "images": read_images_header,
    "features": lambda path: check_features(path, "a", (1, 1, 2, 3)),
    "tokenizer": SubwordTokenizer.load,
    "vectors": lambda path: load_embeddings(path, WORDS),
    "recipe": lambda path: read_recipe(path, TrainConfig),
    "photo": read_image,
    "tutorial": tutorial.read_tutorial,
    "annotations": lambda path: read_annotations([path], [], lambda: path.parent),
}


def error_of(read: Callable[[], Any]) -> str | None:
    """The sentence that the reader refuses with, if it does."""
    try:
        read()
    except (ValueError, OSError) as error:
        told = str(error)
    else:
        return None
    assert "\n" not in told
    assert len(told) < 1500
    return told


def reads_or_refuses(read: Callable[[Path], Any], content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "input.json")
        path.write_bytes(content)
        told = error_of(lambda: read(path))
        assert told is None or folder in told


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@quick
@given(content=st.binary(max_size=200) | st.text(max_size=99).map(str.encode))
def test_reader_of_any_bytes_reads_or_names_the_file(read, content):
    reads_or_refuses(read, content)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@quick
@given(value=PLAIN | st.dictionaries(st.sampled_from([*SPECIAL_WORDS, "whole", "files"]), PLAIN))
def test_reader_of_any_json_reads_or_names_the_file(read, value):
    reads_or_refuses(read, json.dumps(value).encode())


@quick
@given(st.sampled_from(["PNG", "JPEG", "GIF", "BMP"]), st.integers(0, 999), st.binary(min_size=1))
def test_damaged_photo_reads_or_is_named(kind, place, bytes_):
    file = io.BytesIO()
    Image.radial_gradient("L").resize((9, 7)).save(file, kind)
    content = bytearray(file.getvalue())
    place %= len(content)
    content[place : place + len(bytes_)] = bytes_
    reads_or_refuses(read_image, bytes(content))


@quick
@given(st.dictionaries(st.text(max_size=9), st.integers(0, 9)))
def test_word_map_is_read_as_it_was_written_or_never_written(words):
    with contextlib.suppress(ValueError):
        vocabulary = Vocabulary(
            words | {word: len(words) + i for i, word in enumerate(SPECIAL_WORDS)}
        )
        with tempfile.TemporaryDirectory() as folder:
            vocabulary.save(Path(folder, "words.json"))
            assert Vocabulary.load(Path(folder, "words.json")) == vocabulary


@settings(quick, max_examples=150)
@given(
    st.sampled_from([DecodingConfig, DecoderConfig, Preprocessing, ModelConfig, TrainConfig]),
    st.data(),
)
def test_config_of_any_values_is_refused_or_comes_back_equal(cls, data):
    names = st.sampled_from(sorted(to_dict(cls()))) | st.text(max_size=5)
    values = data.draw(st.dictionaries(names, PLAIN, max_size=3))
    if error_of(lambda: from_dict(cls, values)):
        return
    config = from_dict(cls, values)
    numbers = [n for n in to_dict(config).values() if isinstance(n, float)]
    assert all(map(math.isfinite, numbers))
    assert from_dict(cls, json.loads(json.dumps(to_dict(config)))) == config
