"""Decoding of ViT + GPT-2 against Hugging Face on the same weights, and a textbook search.

The rules agree for greedy decoding, and for beams as long as none has ended. Then our search
goes on with one beam fewer (the tutorial's rule), while Hugging Face keeps the width. Ours never
produces start or padding, unless they are also the end, as in GPT-2.

The networks compute in double precision, and the images are some whose best captions are well
apart: noise of 0.0003 in every logit changes none of them, a hundred times what rounding does.
"""

from __future__ import annotations

from collections import Counter

import pytest
import tiny_vit
import torch
from scipy.stats import chisquare
from toy_language import textbook_beam_search
from transformers.modeling_outputs import BaseModelOutput

from sat.checkpoints.generation_config import decoding_from_generation
from sat.config.decoding import DecodingConfig
from sat.decoding.generate import generate
from sat.models.vit_gpt2 import VitGpt2

IMAGES, SEED = 8, 2


def decoder_model(decoder: str = "fresh:gpt2") -> VitGpt2:
    """Its padding is token 0, after which RoBERTa has its 24 positions."""
    changes = {"max_position_embeddings": 25} if decoder == "fresh:roberta" else {}
    words = tiny_vit.Words(one_special=True)
    return tiny_vit.model(words, decoder=decoder, decoder_config=changes).double()


def theirs(model: VitGpt2, features: torch.Tensor, **options: object) -> object:
    return model.network.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=features),
        return_dict_in_generate=True,
        output_scores=True,
        **{"do_sample": False, "length_penalty": 0.0} | options,
    )


def cut(line: list[int]) -> list[int]:
    """Without the start, and without the end and what follows it."""
    words = line[1:]
    return words[: words.index(0)] if 0 in words else words


@pytest.mark.parametrize("decoder", tiny_vit.DECODERS)
def test_vit_gpt2_greedy_equals_hugging_face(decoder):
    model = decoder_model(decoder)
    features = tiny_vit.features(model, IMAGES, SEED)
    ours = generate(model, features, DecodingConfig(beam_size=1, max_length=12))
    found = theirs(model, features, num_beams=1, max_new_tokens=12)
    expected = [cut(line) for line in found.sequences.tolist()]
    assert [best.words for (best,) in ours] == expected
    ended = [best.finished for (best,) in ours]
    assert any(ended)
    assert len({tuple(line) for line in expected}) > 2, "all images get one caption"


@pytest.mark.parametrize("decoder", tiny_vit.DECODERS)
@pytest.mark.parametrize("width", [2, 4])
def test_vit_gpt2_beams_before_any_end_equal_hugging_face(decoder, width):
    model = decoder_model(decoder)
    features = tiny_vit.features(model, IMAGES, SEED)
    options = DecodingConfig(
        beam_size=width, max_length=6, min_length=6, num_return_sequences=width
    )
    ours = generate(model, features, options)
    found = theirs(
        model,
        features,
        num_beams=width,
        min_new_tokens=6,
        max_new_tokens=6,
        num_return_sequences=width,
    )
    lines = [line[1:] for line in found.sequences.tolist()]
    assert [caption.words for image in ours for caption in image] == lines


@pytest.mark.parametrize("width", [1, 3])
def test_vit_gpt2_beams_that_end_equal_textbook_search(width):
    model = decoder_model()
    features = tiny_vit.features(model, IMAGES, SEED)
    options = DecodingConfig(beam_size=width, max_length=7, num_return_sequences=width)
    ours = generate(model, features, options)
    ends = 0
    for one, captions in zip(features.split(1), ours):

        def log_probabilities(prefix, one=one):
            line = torch.tensor([[0, *prefix, 0]])
            with torch.no_grad():
                logits = model(one, line, torch.tensor([len(prefix) + 2])).logits[0, -1]
            return logits.log_softmax(-1).tolist()

        expected = textbook_beam_search(log_probabilities, 0, width, 7)
        assert [(tuple(c.words), c.finished) for c in captions] == [
            (words, ended) for words, _, ended in expected
        ]
        assert [c.score for c in captions] == pytest.approx([s for _, s, _ in expected], abs=1e-4)
        ends += sum(caption.finished for caption in captions)
    assert ends >= 4


def test_vit_gpt2_nucleus_sampling_matches_exact_distribution():
    """Every caption of up to two words of a language of four, counted in 4000 draws."""
    model = tiny_vit.model(tiny_vit.Words(4, one_special=True), seed=2).double()
    features, p = tiny_vit.features(model, 1), 0.9

    def nucleus(prefix: list[int]) -> dict[int, float]:
        line = torch.tensor([[0, *prefix, 0]])
        with torch.no_grad():
            logits = model(features, line, torch.tensor([len(prefix) + 2])).logits[0, -1]
        kept, total = {}, 0.0
        shares = logits.double().softmax(-1).tolist()
        for word, share in sorted(enumerate(shares), key=lambda pair: -pair[1]):
            if total < p:
                kept[word], total = share, total + share
        return {word: share / total for word, share in kept.items()}

    exact: dict[tuple[int, ...], float] = {}
    for first, share in nucleus([]).items():
        if first == 0:
            exact[()] = share
            continue
        for second, again in nucleus([first]).items():
            line = (first,) if second == 0 else (first, second)
            exact[line] = exact.get(line, 0) + share * again
    assert 5 <= len(exact) < 13, "the nucleus leaves something out, and something in"
    draws = 4000
    options = DecodingConfig(do_sample=True, top_p=p, max_length=2, num_return_sequences=draws)
    (drawn,) = generate(model, features, options)
    counts = Counter(tuple(caption.words) for caption in drawn)
    assert set(counts) <= set(exact)
    observed = [counts[line] for line in exact]
    assert chisquare(observed, [draws * share for share in exact.values()]).pvalue > 1e-6
    wrong = [draws / len(exact)] * len(exact)
    assert chisquare(observed, wrong).pvalue < 1e-12, "the test could not tell"


FILTERS = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.7, "top_k": 4},
    {"top_p": 0.7},
    {"temperature": 1.3, "top_k": 6, "top_p": 0.8},
    {"temperature": 2.5, "repetition_penalty": 1.4, "top_p": 0.9},
]


@pytest.mark.parametrize("decoder", tiny_vit.DECODERS)
@pytest.mark.parametrize("choice", FILTERS, ids=str)
def test_vit_gpt2_sampling_draws_from_the_probabilities_of_hugging_face(
    decoder, choice, monkeypatch
):
    """Those of every token, after temperature, top-k and nucleus; both go on with given tokens."""
    model, length = decoder_model(decoder), 4
    features = tiny_vit.features(model, IMAGES, SEED)
    tokens = torch.randint(1, 11, (length, IMAGES), generator=torch.Generator().manual_seed(3))
    drawn_from: list[torch.Tensor] = []

    def multinomial(p: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        drawn_from.append(p)
        return tokens[(len(drawn_from) - 1) % length].unsqueeze(1)

    monkeypatch.setattr(torch, "multinomial", multinomial)
    values = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0} | choice
    lengths = {"max_new_tokens": length, "min_new_tokens": length}
    found = theirs(model, features, **values, **lengths, num_beams=1)
    assert torch.equal(found.sequences[:, 1:].T, tokens)
    generate(model, features, decoding_from_generation(values | lengths))
    assert len(drawn_from) == 2 * length
    for ours, scores in zip(drawn_from[length:], found.scores, strict=True):
        expected = scores.softmax(dim=-1)
        assert ((ours > 0) == (expected > 0)).all()
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
