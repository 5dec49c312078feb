"""Frequencies of sampled captions against the exact distribution, computed in numpy."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from toy_language import Toy, photos

from sat.config.decoding import DecodingConfig
from sat.decoding.generate import generate
from sat.decoding.sampling import filter_logits, sample

DRAWS = 6000
OPTIONS = [
    {"do_sample": True},
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_k": 2},
    {"top_p": 0.6},
    {"temperature": 1.5, "top_k": 4, "top_p": 0.8},
    {"top_k": 3, "forbid_unknown": True},
    {"temperature": 1.5, "min_length": 1},
    {"temperature": 3.0, "no_repeat_ngram_size": 1},
]


def filter_by_hand(p: np.ndarray, options: DecodingConfig) -> np.ndarray:
    """Probabilities after temperature, then top-k, then the smallest set holding top_p."""
    p = p ** (1 / options.temperature)
    p /= p.sum()
    if options.top_k:
        p = np.where(p >= np.sort(p)[-options.top_k], p, 0)
        p /= p.sum()
    nucleus = []
    for word in np.argsort(-p):
        nucleus.append(word)
        if p[nucleus].sum() >= options.top_p - 1e-12:
            break
    kept = np.zeros_like(p)
    kept[nucleus] = p[nucleus]
    return kept / kept.sum()


def exact(toy: Toy, options: DecodingConfig, prefix: tuple[int, ...] = (), p: float = 1.0) -> dict:
    """The probability of every caption, keyed by its words and whether it ended."""
    if len(prefix) == options.max_length:
        return {(prefix, False): p}
    words = np.exp(toy.log_probabilities(photos(99)[0], prefix))
    if options.forbid_unknown:
        words[toy.unk_id] = 0
    if len(prefix) < options.min_length:
        words[toy.end_id] = 0
    if options.no_repeat_ngram_size == 1:
        words[list(prefix)] = 0
    words = filter_by_hand(words, options)
    captions = {(prefix, True): p * words[toy.end_id]}
    for word in toy.said:
        captions |= exact(toy, options, (*prefix, word), p * words[word])
    return captions


def p_value(counts: Counter, expected: dict) -> float:
    """Of a chi-squared test, captions expected less than five times counted as one."""
    usual = [caption for caption, p in expected.items() if p * DRAWS >= 5]
    seen, due = [counts[caption] for caption in usual], [expected[c] * DRAWS for c in usual]
    rest = DRAWS - sum(due)
    if rest > 1e-6:
        seen, due = [*seen, DRAWS - sum(seen)], [*due, rest]
    return chisquare(seen, np.array(due) * sum(seen) / sum(due)).pvalue


@pytest.mark.parametrize("choice", OPTIONS, ids=str)
def test_sampling_frequencies_match_exact_distribution(choice: dict[str, float]) -> None:
    toy, options = Toy(words=4), DecodingConfig(max_length=2, beam_size=1, seed=11, **choice)
    same = photos(99).expand(DRAWS, -1, -1)
    drawn = [found for (found,) in generate(toy, same, options)]
    counts = Counter((tuple(found.words), found.finished) for found in drawn)
    expected = exact(toy, options)
    assert sum(expected.values()) == pytest.approx(1)
    assert all(expected.get(caption, 0) > 0 for caption in counts)  # nothing that is filtered out
    assert p_value(counts, expected) > 1e-6  # five standard deviations
    if choice != {"do_sample": True}:  # the test can tell: these are not plain draws
        assert p_value(counts, exact(toy, DecodingConfig(max_length=2))) < 1e-12


def test_sampling_filtered_score_is_unfiltered_log_probability() -> None:
    toy = Toy(words=4)
    options = DecodingConfig(max_length=3, temperature=2.0, top_k=3, num_return_sequences=20)
    images = photos(99, 1, 99)
    for image, captions in zip(images, generate(toy, images, options), strict=True):
        assert len(captions) == 20
        scores = {(words, ended): score for words, score, ended in toy.captions(image, 3)}
        for found in captions:
            own = scores[tuple(found.words), found.finished]
            assert found.score == pytest.approx(own, abs=1e-5)
        places = [(found.finished, found.score) for found in captions]
        assert places == sorted(places, reverse=True)


def test_sampling_same_seed_draws_same_captions() -> None:
    toy, images = Toy(words=9), photos(*[99] * 8)

    def draw(seed: int) -> list:
        return generate(toy, images, DecodingConfig(do_sample=True, max_length=8, seed=seed))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    generator = torch.Generator().manual_seed(1)
    options = DecodingConfig(do_sample=True, max_length=8, seed=2)
    assert sample(toy, images, options, generator) == draw(1)
    assert sample(toy, images, options, generator) != draw(1)  # it goes on, not back


def test_sampling_only_most_likely_word_equals_greedy() -> None:
    toy, images = Toy(words=9), photos(99, 3, 99, 1)
    greedy = generate(toy, images, DecodingConfig(beam_size=1, max_length=8))
    for choice in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-30}):
        drawn = generate(toy, images, DecodingConfig(max_length=8, **choice))
        assert [c[0].words for c in drawn] == [c[0].words for c in greedy]


@pytest.mark.parametrize("one_special", [False, True], ids=["four specials", "as GPT-2"])
def test_sampling_ended_caption_gets_no_more_words(one_special: bool) -> None:
    toy, images = Toy(words=6, one_special=one_special), photos(0, 2, 5, 99)
    found = generate(toy, images, DecodingConfig(do_sample=True, max_length=6))
    assert [len(captions[0].words) <= most for captions, most in zip(found, (0, 2, 5, 6))]
    assert all(set(captions[0].words) <= set(toy.said) for captions in found)
    assert found[0][0].words == []


@pytest.mark.parametrize("choice", OPTIONS[:6], ids=str)
def test_filter_logits_random_distribution_equals_numpy(choice: dict[str, float]) -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(12), size=40)
    options = DecodingConfig(**choice)
    found = filter_logits(torch.from_numpy(np.log(p)).float(), options).numpy()
    expected = np.stack([filter_by_hand(row, options) for row in p])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_filter_logits_impossible_word_stays_impossible() -> None:
    log_p = torch.tensor([[-1.0, float("-inf"), -2.0]])
    for choice in OPTIONS[:6]:
        found = filter_logits(log_p, DecodingConfig(**choice))
        assert found[0, 1] == 0
        assert found.sum().item() == pytest.approx(1)
