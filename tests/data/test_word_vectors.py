"""Word vectors read from text files, and what becomes of words that have none."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from sat.data.vocabulary import Vocabulary
from sat.data.word_vectors import load_embeddings

WORDS = ["<pad>", "dog", "runs", "café", "grass", "<unk>", "<start>", "<end>"]
VOCABULARY = Vocabulary({word: number for number, word in enumerate(WORDS)})
GLOVE = "the 9 9 9\ndog 0.5 -1 2e-1\ncafé 1 2 3\nzebra 7 7 7\nruns -0.25 0 4\n"


def read(folder: Path, text: str) -> torch.Tensor:
    path = folder / "vectors.txt"
    path.write_text(text, encoding="utf-8")
    return load_embeddings(path, VOCABULARY)


@pytest.mark.parametrize(
    "text",
    [
        GLOVE,
        "5 3\n" + GLOVE,
        GLOVE.replace("\n", " \n"),
        GLOVE + "dog 8 8 8\n",
        GLOVE + "\n",
        "\ufeff" + GLOVE.removeprefix("the 9 9 9\n"),
        "\ufeff5 3\n" + GLOVE,
    ],
)
def test_load_embeddings_gives_words_their_vectors(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A GloVe file; one with the counts of word2vec on top; trailing blanks; a word twice.

    And a blank last line; a byte order mark before the first word, or before the counts.
    """
    with caplog.at_level(logging.INFO):
        table = read(tmp_path, text)
    assert table.shape == (8, 3)
    assert table.dtype == torch.float32
    assert torch.equal(table[1], torch.tensor([0.5, -1, 0.2]))
    assert torch.equal(table[3], torch.tensor([1.0, 2, 3]))
    assert torch.equal(table[2], torch.tensor([-0.25, 0, 4]))
    assert "3 of 8 words have a vector" in caplog.text


def test_load_embeddings_with_counts_on_top_reads_words_with_blanks(tmp_path: Path) -> None:
    """word2vec and fastText begin with "words size"; phrases stand in some of their files."""
    table = read(tmp_path, "3 3\nhot dog 1 2 3\ndog 4 5 6\n. . . 7 8 9\n")
    assert torch.equal(table[1], torch.tensor([4.0, 5, 6]))
    with pytest.raises(ValueError, match="line 2: 3 numbers where others have 4"):
        read(tmp_path, "1 4\ndog 1 2 3\n")


def test_load_embeddings_without_a_vector_draws_with_the_same_spread(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    lines = [
        f"{word} " + " ".join(map(str, random.normal(0, 0.3, 400))) for word in ("dog", "runs")
    ]
    table = read(tmp_path, "\n".join(lines))
    missing = table[[0, 3, 4, 5, 6, 7]]
    assert missing.std().item() == pytest.approx(table[1:3].std().item(), rel=0.1)
    assert abs(missing.mean().item()) < 0.05
    assert len({tuple(row) for row in missing.tolist()}) == 6
    assert torch.equal(read(tmp_path, "\n".join(lines)), table)  # drawn alike every time


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "dog 1 2 3\nruns 1 2\n",
            "vectors.txt, line 2: 2 numbers where others have 3: give a text",
        ),
        ("zebra 1 2 3\n", r"vectors.txt has no vector for any of the 8 words"),
        ("", r"vectors.txt has no vector for any of the 8 words"),
        ("zebra nan 1 2\ndog 1 nan 3\n", "vectors.txt, line 2: nan is not finite: give a text"),
        ("dog 1 2 inf\n", "vectors.txt, line 1: inf is not finite: give a text"),
        ("dog 1 two 3\n", "vectors.txt, line 1: could not convert string to float: 'two': give a"),
    ],
)
def test_load_embeddings_of_another_file_raises(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read(tmp_path, text)
