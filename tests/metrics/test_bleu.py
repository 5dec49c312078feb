"""BLEU against a plain version of Papineni et al. 2002, hand computation, and COCO's scorer."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from sat.metrics.bleu import bleu, tokenize

NAMES = ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4"]
EXAMPLES = [
    ("a man's dog.", ["a", "man", "'s", "dog"]),
    ("T-shirt", ["t-shirt"]),
    ("Two dogs , running .", ["two", "dogs", "running"]),
    ("A dog runs... fast!", ["a", "dog", "runs", "fast"]),
    ("It isn't a cat; (a dog?)", ["it", "is", "n't", "a", "cat", "a", "dog"]),
    ('He says "hello" to her: hi', ["he", "says", "hello", "to", "her", "hi"]),
    ("two  blanks\tand\na line", ["two", "blanks", "and", "a", "line"]),
    ("A sentence. Another one.", ["a", "sentence", "another", "one"]),
    ("", []),
    (" . , ", []),
]


def ngrams(words: list[str], n: int) -> Counter:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def papineni(references: list[list[list[str]]], candidates: list[list[str]]) -> list[float]:
    """BLEU-1..4 by sections 2.1 to 2.3 of the paper; a caption too short has no n-grams at all."""
    matches, totals, length, wanted = [0] * 5, [0] * 5, 0, 0
    for captions, words in zip(references, candidates):
        length += len(words)
        wanted += min((abs(len(line) - len(words)), len(line)) for line in captions)[1]
        for n in range(1, 5):
            for gram, count in ngrams(words, n).items():
                matches[n] += min(count, max(ngrams(line, n)[gram] for line in captions))
                totals[n] += count
    penalty = 1 if length > wanted else math.exp(1 - wanted / length)
    scores, logs = [], 0.0
    for n in range(1, 5):
        if not matches[n]:
            return scores + [0.0] * (5 - n)
        logs += math.log(matches[n] / totals[n])
        scores.append(penalty * math.exp(logs / n))
    return scores


def made_up(seed: int, *, shortest: int = 1, images: int = 30) -> tuple[list[list[str]], list[str]]:
    """Captions that share many words: references of each image, and one hypothesis."""
    rng = random.Random(seed)
    words = ["a", "dog", "runs", "on", "the", "grass", "with", "ball"]

    def line(shortest: int) -> str:
        start, length = rng.randrange(4), rng.randint(shortest, 10)
        flow = [words[(start + i + (rng.random() < 0.15)) % 8] for i in range(length)]
        return " ".join(flow)

    references = [[line(3) for _ in range(rng.randint(1, 5))] for _ in range(images)]
    return references, [line(shortest) for _ in range(images)]


def scores_of(references: list[list[str]], hypotheses: list[str]) -> list[float]:
    scores = bleu(references, hypotheses)
    return [scores[name] for name in NAMES]


@pytest.mark.parametrize(("caption", "words"), EXAMPLES)
def test_tokenize_caption_returns_lower_case_words_without_punctuation(
    caption: str, words: list[str]
) -> None:
    assert tokenize(caption) == words


@pytest.mark.parametrize("seed", range(4))
def test_bleu_random_captions_equals_papineni(seed: int) -> None:
    references, hypotheses = made_up(seed, shortest=4)
    split = [[line.split() for line in lines] for lines in references]
    expected = papineni(split, [line.split() for line in hypotheses])
    assert scores_of(references, hypotheses) == pytest.approx(expected, abs=1e-9)
    assert min(expected) > 0.1


@pytest.mark.parametrize("shortest", [0, 1])
def test_bleu_caption_shorter_than_ngram_counts_none(shortest: int) -> None:
    """Found with NLTK's `corpus_bleu`, which counts one missed n-gram for each such caption."""
    references, hypotheses = made_up(0, shortest=shortest)
    hypotheses[:6] = ["a dog runs", "the grass", "dog", "", "a dog", "runs on the"]
    split = [[line.split() for line in lines] for lines in references]
    expected = papineni(split, [line.split() for line in hypotheses])
    assert scores_of(references, hypotheses) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_bleu_random_captions_equals_coco_evaluation(seed: int) -> None:
    scorer = pytest.importorskip("pycocoevalcap.bleu.bleu").Bleu(4)
    references, hypotheses = made_up(seed, shortest=1 + 3 * (seed % 2))
    theirs, _ = scorer.compute_score(
        dict(enumerate(references)), {i: [line] for i, line in enumerate(hypotheses)}, verbose=0
    )
    # It adds 1e-15 and 1e-9 to every count.
    assert scores_of(references, hypotheses) == pytest.approx(theirs, abs=1e-6)


def test_bleu_one_caption_equals_hand_computation() -> None:
    """Six words: five match, as no reference holds two "the"; two pairs of five; no triple.

    The nearest reference has seven words: brevity penalty exp(1 - 7/6).
    """
    references = [["The cat sat on a red mat.", "A cat is on the mat, it seems to me."]]
    scores = bleu(references, ["the the cat on a mat"])
    penalty = math.exp(-1 / 6)
    assert scores["brevity_penalty"] == pytest.approx(penalty)
    assert scores["Bleu_1"] == pytest.approx(penalty * 5 / 6)
    assert scores["Bleu_2"] == pytest.approx(penalty * math.sqrt(5 / 6 * 2 / 5))
    assert scores["Bleu_3"] == 0
    assert scores["Bleu_4"] == 0


def test_bleu_perfect_caption_is_one() -> None:
    scores = bleu([["Two dogs run on the grass.", "Dogs!"]], ["two dogs run on the grass"])
    assert scores == pytest.approx(dict.fromkeys([*NAMES, "brevity_penalty"], 1.0))


@pytest.mark.parametrize(
    ("lengths", "penalty"),
    [([5], math.exp(-1 / 4)), ([3, 5], 1.0), ([4, 9], 1.0), ([6, 8], math.exp(-1 / 2)), ([3], 1.0)],
    ids=str,
)
def test_bleu_several_references_penalty_uses_nearest_length(
    lengths: list[int], penalty: float
) -> None:
    """The caption has four words; of two references equally near, the shorter counts."""
    references = [[" ".join(["dog"] * n) for n in lengths]]
    assert bleu(references, ["dog dog dog dog"])["brevity_penalty"] == pytest.approx(penalty)


def test_bleu_shuffled_or_repeated_images_is_unchanged() -> None:
    references, hypotheses = made_up(7, shortest=4)
    expected = bleu(references, hypotheses)
    order = random.Random(1).sample(range(len(hypotheses)), len(hypotheses))
    shuffled = bleu([references[i] for i in order], [hypotheses[i] for i in order])
    assert shuffled == pytest.approx(expected)
    assert bleu(references * 2, hypotheses * 2) == pytest.approx(expected)


def test_bleu_unknown_word_matches_nothing() -> None:
    """Not even itself: references from a word map, as the tutorial's files give, may hold it."""
    assert tokenize("A <unk> runs.") == ["a", "<unk>", "runs"]
    for reference in ("a zebra runs on the grass", "a <unk> runs on the grass"):
        scores = bleu([[reference]], ["a <unk> runs on the grass"])
        assert scores["brevity_penalty"] == 1
        assert scores["Bleu_1"] == pytest.approx(5 / 6)
        assert scores["Bleu_2"] == pytest.approx(math.sqrt(5 / 6 * 3 / 5))
        assert scores["Bleu_4"] == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)


def test_bleu_no_common_word_is_zero() -> None:
    assert (
        scores_of([["a dog"], ["two cats"]], ["seven birds fly south", "again and again"])
        == [0] * 4
    )
    assert bleu([["a dog"]], ["."]) == dict.fromkeys([*NAMES, "brevity_penalty"], 0.0)


@pytest.mark.parametrize(
    ("references", "hypotheses", "sentence"),
    [
        ([["a"]], ["a", "b"], "2 captions for 1 images with references: give exactly one"),
        ([], [], "0 captions for 0 images"),
        ([["a"], []], ["a", "b"], "an image has no reference caption: it cannot be scored"),
    ],
)
def test_bleu_mismatched_input_raises_value_error(
    references: list, hypotheses: list, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        bleu(references, hypotheses)
