"""Greedy and beam search against all captions of a toy language, and a textbook search."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from toy_language import Caption, State, Toy, photos, textbook_beam_search

from sat.config.decoding import DecodingConfig, TokenRules
from sat.decoding.generate import generate
from sat.decoding.hypothesis import Hypothesis

NEVER = 99
MIXED = photos(NEVER, 0, 3, 1, NEVER, 2, 5, 4)  # images that end early, late and not at all


def assert_same(found: list[Hypothesis], expected: list[Caption]) -> None:
    assert [(tuple(c.words), c.finished) for c in found] == [(w, end) for w, _, end in expected]
    assert [c.score for c in found] == pytest.approx([score for _, score, _ in expected], abs=1e-5)


def allowed(words: tuple[int, ...], finished: bool, options: DecodingConfig) -> bool:
    size, counts = options.no_repeat_ngram_size, Counter()
    if size:
        counts.update(words[i : i + size] for i in range(len(words) - size + 1))
    long_enough = not finished or len(words) >= options.min_length
    known = not options.forbid_unknown or Toy(words=3).unk_id not in words
    return long_enough and known and all(count == 1 for count in counts.values())


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"length_penalty": 1.5},
        {"length_penalty": -2.0},
        {"min_length": 2},
        {"min_length": 4},
        {"forbid_unknown": True},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 3},
        {"no_repeat_ngram_size": 2, "min_length": 3},
        {"max_length": 1},
    ],
    ids=str,
)
def test_beam_search_wide_beam_lists_every_allowed_caption(choice: dict[str, float]) -> None:
    """Every caption that the options allow, with its probability, the best by the ranking first."""
    toy, images = Toy(words=3), photos(NEVER, 2, NEVER)
    options = DecodingConfig(
        **{"max_length": 4, "beam_size": 130, "num_return_sequences": 130} | choice
    )
    power = options.length_penalty
    for image, found in zip(images, generate(toy, images, options), strict=True):
        everything = {
            (words, finished): score
            for words, score, finished in toy.captions(image, options.max_length)
            if allowed(words, finished, options)
        }
        scores = {(tuple(caption.words), caption.finished): caption.score for caption in found}
        assert len(scores) == len(found)  # distinct
        assert scores == pytest.approx(everything, abs=1e-5)
        places = [(c.finished, c.score / (len(c.words) + c.finished) ** power) for c in found]
        assert places == sorted(places, reverse=True)


def test_beam_search_wide_beam_finds_best_caption() -> None:
    toy, images = Toy(words=3), photos(*[NEVER] * 6)
    for image, found in zip(
        images, generate(toy, images, DecodingConfig(beam_size=130, max_length=4))
    ):
        finished = (caption for caption in toy.captions(image, 4) if caption[2])
        assert_same(found, [max(finished, key=lambda caption: caption[1])])


@pytest.mark.parametrize("width", [1, 2, 3, 5])
@pytest.mark.parametrize("one_special", [False, True], ids=["four specials", "as GPT-2"])
def test_beam_search_batch_equals_textbook_search_of_each_image(
    width: int, one_special: bool
) -> None:
    toy = Toy(words=9, one_special=one_special)
    options = DecodingConfig(beam_size=width, num_return_sequences=width, max_length=7)
    together = generate(toy, MIXED, options)
    for i, found in enumerate(together):
        image = MIXED[i]
        expected = textbook_beam_search(
            lambda prefix, image=image: toy.log_probabilities(image, prefix), toy.end_id, width, 7
        )
        assert_same(found, expected)
        assert_same(generate(toy, MIXED[i : i + 1], options)[0], expected)
    assert len({len(captions[0].words) for captions in together}) > 3  # they did end apart


def test_toy_language_unordered_state_gives_other_captions() -> None:
    class Forgetful(Toy):
        def reorder(self, state: State, index: Tensor) -> State:
            return super().reorder(state, index.sort().values)

    options = DecodingConfig(beam_size=3, num_return_sequences=3, max_length=7)
    images = photos(*[NEVER] * 8)
    right, wrong = (generate(toy, images, options) for toy in (Toy(words=9), Forgetful(words=9)))
    assert sum(a != b for a, b in zip(right, wrong)) > 4


def test_beam_search_without_end_returns_best_unfinished() -> None:
    class Endless(Toy):
        def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
            logits, state = super().step(tokens, state)
            logits[state.deadline == NEVER, self.end_id] = -torch.inf
            return logits, state

    toy = Endless(words=4)
    images = photos(NEVER, 1, NEVER)
    found = generate(toy, images, DecodingConfig(beam_size=200, max_length=3))
    assert [captions[0].finished for captions in found] == [False, True, False]
    for image, captions in zip(images, found):
        candidates = [c for c in toy.captions(image, 3) if c[2] == captions[0].finished]
        assert_same(captions, [max(candidates, key=lambda caption: caption[1])])


@pytest.mark.parametrize("sampling", [False, True], ids=["search", "sampling"])
def test_generate_special_tokens_are_never_produced(sampling: bool) -> None:
    toy = Toy(words=3, loud=5.0)
    options = DecodingConfig(beam_size=1 if sampling else 4, max_length=9, do_sample=sampling)
    spoken = [word for captions in generate(toy, MIXED, options) for word in captions[0].words]
    assert toy.unk_id in spoken  # which is a word, unless it is forbidden
    assert not {toy.pad_id, toy.start_id, toy.end_id} & set(spoken)
    options = DecodingConfig(max_length=9, do_sample=sampling, forbid_unknown=True)
    spoken = [word for captions in generate(toy, MIXED, options) for word in captions[0].words]
    assert spoken
    assert set(spoken) <= {1, 2}


@pytest.mark.parametrize("sampling", [False, True], ids=["search", "sampling"])
def test_generate_no_images_returns_no_captions(sampling: bool) -> None:
    assert generate(Toy(), photos(NEVER)[:0], DecodingConfig(do_sample=sampling)) == []


def test_generate_forbid_unknown_without_unknown_changes_nothing() -> None:
    toy = Toy(words=4, one_special=True)
    plain, strict = DecodingConfig(max_length=5), DecodingConfig(max_length=5, forbid_unknown=True)
    assert generate(toy, MIXED, plain) == generate(toy, MIXED, strict)


def test_hypothesis_rank_counts_the_end_token() -> None:
    assert Hypothesis([1, 2, 3], -8.0, finished=True).rank(1.0) == -2.0
    assert Hypothesis([1, 2, 3, 4], -8.0, finished=False).rank(1.0) == -2.0
    assert Hypothesis([1, 2, 3], -8.0, finished=True).rank(0.5) == -4.0
    assert Hypothesis([1, 2, 3], -8.0, finished=True).rank(0.0) == -8.0


def test_generate_sampling_leaves_global_generator_unchanged() -> None:
    before = torch.get_rng_state()
    generate(Toy(), MIXED, DecodingConfig(do_sample=True, max_length=4))
    assert torch.equal(torch.get_rng_state(), before)


HF = DecodingConfig(rule="hugging_face", early_stopping="never", max_length=4, beam_size=130)


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 1.0, 2.0])
def test_beam_search_hugging_face_wide_beam_finds_best_of_all_captions(penalty: float) -> None:
    """The best score a token among captions that end and those that are cut off."""
    toy, images = Toy(words=3, one_special=True), photos(NEVER, 2, NEVER)
    options = dataclasses.replace(HF, length_penalty=penalty, num_return_sequences=5)
    for image, found in zip(images, generate(toy, images, options), strict=True):
        captions = list(toy.captions(image, 4))
        captions.sort(key=lambda c: c[1] / (len(c[0]) + c[2]) ** penalty, reverse=True)
        assert_same(found, captions[:5])


def test_beam_search_hugging_face_of_width_one_is_greedy() -> None:
    toy, options = Toy(words=5, one_special=True), DecodingConfig(beam_size=1, max_length=6)
    same = dataclasses.replace(options, rule="hugging_face", length_penalty=2.0)
    assert generate(toy, MIXED, options) == generate(toy, MIXED, same)


@pytest.mark.parametrize("sampling", [False, True], ids=["search", "sampling"])
def test_generate_hugging_face_may_produce_start_and_padding(sampling: bool) -> None:
    toy = Toy(words=3, loud=5.0)
    options = dataclasses.replace(HF, beam_size=1 if sampling else 4, do_sample=sampling)
    spoken = [word for captions in generate(toy, MIXED, options) for word in captions[0].words]
    assert {toy.pad_id, toy.start_id} & set(spoken)


@pytest.mark.parametrize("rule", ["tutorial", "hugging_face"])
@pytest.mark.parametrize("width", [1, 3])
def test_generate_token_rules_hold_in_every_caption(rule: str, width: int) -> None:
    toy, images = Toy(words=9), photos(*[NEVER] * 8)
    plain = DecodingConfig(beam_size=width, max_length=6, min_length=2, rule=rule)

    def said(**rules: object) -> list[list[int]]:
        options = dataclasses.replace(plain, tokens=TokenRules(**rules))
        return [captions[0].words for captions in generate(toy, images, options)]

    free = said()
    first, pairs = free[0][0], [tuple(line[:2]) for line in free]
    assert any(first in line for line in said())
    assert not any(first in line for line in said(suppress_tokens=(first,)))
    assert not any(line[:1] == [first] for line in said(begin_suppress_tokens=(first,)))
    assert all(line[:1] == [first] for line in said(forced_bos_token_id=first))
    forced = said(forced_bos_token_id=first, begin_suppress_tokens=(first, free[1][0]))
    assert all(line[0] == first and line[1:2] != [free[1][0]] for line in forced)
    clean = said(bad_words_ids=tuple(pairs))
    assert not any(pair in pairwise(line) for line in clean for pair in pairs)
    assert clean != free
    assert not any(first in line for line in said(eos_token_id=(first,)))
    ended = said(forced_eos_token_id=(toy.end_id,))
    assert max(map(len, ended)) == 5, "the sixth token is the end"


@pytest.mark.parametrize("sampling", [False, True])
@pytest.mark.parametrize(
    "rule",
    [
        {"eos_token_id": (-1,)},
        {"forced_bos_token_id": 6},
        {"suppress_tokens": (1, 6)},
        {"bad_words_ids": ((1, 6),)},
    ],
    ids=str,
)
def test_generate_rule_on_a_token_that_the_model_lacks_raises(rule: dict, sampling: bool) -> None:
    options = DecodingConfig(tokens=TokenRules(**rule), do_sample=sampling)
    with pytest.raises(ValueError, match=r"decoding is (-1|6): the model has tokens 0 to 5"):
        generate(Toy(words=3), photos(2), options)


HOW = [{"beam_size": 1}, {"beam_size": 3}, {"do_sample": True}, {"top_k": 2, "top_p": 0.5}]


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ({"suppress_tokens": (0, 1, 2, 3, 4, 5)}, "suppress_tokens"),
        ({"suppress_tokens": (1, 2, 3, 5), "eos_token_id": (3,)}, "suppress_tokens, rule"),
        ({"forced_bos_token_id": 1, "suppress_tokens": (1,)}, "forced_bos_token_id, suppress"),
        ({"forced_bos_token_id": 4}, r"forced_bos_token_id, rule tutorial\)"),  # <start>
        ({"begin_suppress_tokens": (1, 2, 3, 5)}, "begin_suppress_tokens"),
        ({"bad_words_ids": ((1,), (2,), (3,)), "suppress_tokens": (5,)}, "suppress.*, bad_words"),
        ({"forced_eos_token_id": (3,), "suppress_tokens": (3,)}, "forced_eos.*, suppress"),
    ],
    ids=str,
)
def test_generate_with_every_token_forbidden_names_the_rules(rule, named, how) -> None:
    options = DecodingConfig(tokens=TokenRules(**rule), max_length=1, **how)
    with pytest.raises(ValueError, match=rf"^the rules of decoding \({named}.* forbid every token"):
        generate(Toy(words=3), photos(NEVER, NEVER), options)


@pytest.mark.parametrize("how", HOW, ids=str)
def test_generate_with_every_token_forbidden_after_the_end_is_no_error(how) -> None:
    """The first caption ends at once; the others may say each word once, and then end."""
    rules = TokenRules(bad_words_ids=((5, 1), (5, 2), (5, 3)))
    options = DecodingConfig(tokens=rules, no_repeat_ngram_size=1, max_length=9, **how)
    found = generate(Toy(words=3), photos(0, NEVER, NEVER, NEVER), options)
    assert found[0][0].words == []
    assert all(captions[0].finished for captions in found)


@pytest.mark.parametrize("how", HOW, ids=str)
def test_generate_of_a_model_that_gives_nan_raises(monkeypatch, how) -> None:
    step = Toy.step

    def broken(self: Toy, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        logits, state = step(self, tokens, state)
        return logits.index_fill(1, torch.tensor([1]), float("nan")), state

    monkeypatch.setattr(Toy, "step", broken)
    with pytest.raises(FloatingPointError, match="log-probabilities are NaN: weights or features"):
        generate(Toy(words=3), photos(2, NEVER), DecodingConfig(**how))


def test_beam_search_repetition_penalty_makes_repeats_rarer() -> None:
    toy, images = Toy(words=4), photos(*[NEVER] * 8)

    def repeats(penalty: float) -> int:
        options = DecodingConfig(beam_size=3, max_length=7, repetition_penalty=penalty)
        lines = [captions[0].words for captions in generate(toy, images, options)]
        return sum(len(line) - len(set(line)) for line in lines)

    assert repeats(5.0) < repeats(1.0)
