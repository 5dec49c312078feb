"""The word map against the tutorial's layout, worked by hand."""

import json
import os

import pytest

from sat.data.vocabulary import Vocabulary

CAPTIONS = [
    ["a", "dog", "runs"],
    ["a", "dog", "sleeps", "<end>"],
    ["the", "dog", "écoute", "écoute"],
    ["<start>", "the", "<end>"],
]


def test_build_numbers_words_in_order_of_first_occurrence():
    vocabulary = Vocabulary.build(CAPTIONS, min_word_freq=2)
    assert list(vocabulary.word_map.items()) == [
        *[("<pad>", 0), ("a", 1), ("dog", 2), ("the", 3), ("écoute", 4)],
        *[("<unk>", 5), ("<start>", 6), ("<end>", 7)],
    ]
    special = vocabulary.pad_id, vocabulary.unk_id, vocabulary.start_id, vocabulary.end_id
    assert special == (0, 5, 6, 7)
    assert len(vocabulary) == 8


def test_build_with_min_word_freq_keeps_words_of_this_frequency():
    # "dog" is seen three times, "a" twice: the tutorial would need min_word_freq=2 for "dog" alone.
    assert "dog" in Vocabulary.build(CAPTIONS, min_word_freq=3)
    assert "a" not in Vocabulary.build(CAPTIONS, min_word_freq=3)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, ["dog"]),  # three times
        (2, ["a", "dog"]),  # "a", "the" and "écoute" twice each: the first seen
        (4, ["a", "dog", "the", "écoute"]),
        (5, ["a", "dog", "runs", "the", "écoute"]),
        (99, ["a", "dog", "runs", "sleeps", "the", "écoute"]),
    ],
)
def test_build_with_size_keeps_the_most_frequent_words(size, expected):
    word_map = Vocabulary.build(CAPTIONS, min_word_freq=9, size=size).word_map
    assert list(word_map) == ["<pad>", *expected, "<unk>", "<start>", "<end>"]


def test_encode_with_unknown_words_gives_unk_between_start_and_end():
    vocabulary = Vocabulary.build(CAPTIONS, min_word_freq=2)
    assert vocabulary.encode(["the", "cat", "a"]) == [6, 3, 5, 1, 7]
    assert vocabulary.encode([]) == [6, 7]


def test_decode_stops_at_end_and_skips_start_and_padding():
    vocabulary = Vocabulary.build(CAPTIONS, min_word_freq=2)
    assert vocabulary.words([6, 3, 0, 5, 1, 7, 2, 2]) == ["the", "<unk>", "a"]
    assert vocabulary.decode([6, 3, 2, 7, 0, 0]) == "the dog"
    assert vocabulary.decode([1, 2]) == "a dog"
    assert vocabulary.decode([7, 1]) == ""


def test_decode_of_an_unknown_id_raises():
    vocabulary = Vocabulary.build(CAPTIONS, min_word_freq=2)
    for number in (8, -1):
        with pytest.raises(ValueError, match=f"word number {number} is not in .* of 8 words"):
            vocabulary.decode([1, number])


def test_build_of_rare_words_only_raises():
    with pytest.raises(ValueError, match=r"min_word_freq is 9: none of the 6 different words"):
        Vocabulary.build(CAPTIONS, min_word_freq=9)


def test_vocabulary_saved_and_loaded_is_equal(tmp_path):
    vocabulary = Vocabulary.build(CAPTIONS, min_word_freq=1)
    vocabulary.save(tmp_path / "words.json")
    assert Vocabulary.load(tmp_path / "words.json") == vocabulary
    assert (tmp_path / "words.json").read_bytes() == json.dumps(vocabulary.word_map).encode("ascii")
    assert os.listdir(tmp_path) == ["words.json"]


def test_save_after_a_failure_keeps_the_old_file(tmp_path, monkeypatch):
    Vocabulary.build(CAPTIONS, min_word_freq=1).save(tmp_path / "words.json")
    before = (tmp_path / "words.json").read_bytes()

    def no_space(*paths):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="no space left"):
        Vocabulary.build(CAPTIONS, min_word_freq=2).save(tmp_path / "words.json")
    assert os.listdir(tmp_path) == ["words.json"]
    assert (tmp_path / "words.json").read_bytes() == before


SPECIAL = {"<pad>": 0, "<unk>": 1, "<start>": 2, "<end>": 3}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "cannot be read"),
        ("[1, 2]", "the word map is a list"),
        (json.dumps({"a": 0, "<pad>": 1}), "the word map lacks <unk>, <start>, <end>"),
        (json.dumps(SPECIAL | {"a": 5}), "5 words, but their numbers are not 0 to 4"),
        (json.dumps(SPECIAL | {"a": 3}), "5 words, but their numbers are not 0 to 4"),
        (json.dumps(SPECIAL | {"a": "4"}), "gives 'a' the number '4': not an integer"),
        (json.dumps(SPECIAL | {"a": True}), "gives 'a' the number True: not an integer"),
    ],
)
def test_load_of_another_file_names_the_fault(tmp_path, text, sentence):
    path = tmp_path / "words.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence) as caught:
        Vocabulary.load(path)
    assert str(path) in str(caught.value)
