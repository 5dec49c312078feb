"""The decoder against a slow reference of the paper, against its own steps, and by hand.

Where the likeliest region or word decides, in double precision: no rounding makes it another.
"""

from __future__ import annotations

import pytest
import torch
from decoders import SIZES, each_choice, random_batch, random_decoder
from reference_decoder import ReferenceDecoder

from sat.config.decoding import DecodingConfig
from sat.decoding.generate import generate
from sat.models.attention import Attention
from sat.models.decoder import DecoderWithAttention
from sat.ops import attention_scores
from sat.ops.ragged_rows import RaggedRows
from sat.training.losses import word_mask

LENGTHS = torch.tensor([5, 9, 3, 8])  # all different: both decoders sort them alike
EXACT = {"rtol": 0, "atol": 1e-5}


@each_choice
@pytest.mark.parametrize("training", [False, True], ids=["eval", "dropout"])
def test_forward_equals_reference_decoder(choices: dict[str, str], training: bool) -> None:
    decoder = random_decoder(**choices).double().train(training)
    slow = ReferenceDecoder(**SIZES, **choices).double().train(training)
    slow.load_state_dict(decoder.state_dict())
    features, captions = random_batch()
    features = features.double()
    torch.manual_seed(1)
    logits, alphas = slow(features, captions, LENGTHS)
    torch.manual_seed(1)
    output = decoder(features, captions, LENGTHS)
    words = word_mask(LENGTHS - 1, 8)
    torch.testing.assert_close(output.logits[words], logits[words], **EXACT)
    torch.testing.assert_close(output.alphas, alphas, **EXACT)


@each_choice
def test_forward_logits_equal_those_of_step(choices: dict[str, str]) -> None:
    decoder = random_decoder(**choices).double()
    features, captions = random_batch()
    features = features.double()
    output = decoder(features, captions, LENGTHS)
    state = decoder.start(features)
    for t in range(8):
        logits, state = decoder.step(captions[:, t], state)
        alive = t < LENGTHS - 1
        torch.testing.assert_close(logits[alive], output.logits[alive, t], **EXACT)


@each_choice
@pytest.mark.parametrize(
    "cached", [1, 150, attention_scores.SCORE_CACHE_ELEMENTS], ids=["one", "three", "all"]
)
def test_beam_search_of_batch_equals_reference_of_each_image(
    choices: dict[str, str], cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many rows of attention's hidden layer, 70 numbers each, the cache holds."""
    monkeypatch.setattr(attention_scores, "SCORE_CACHE_ELEMENTS", cached)
    decoder, features = random_decoder(**choices).double(), random_batch()[0].double()
    decoder.pad_id, decoder.unk_id, decoder.start_id, decoder.end_id = 0, 8, 9, 10
    decoder.fc.bias.data[[0, 9]] = -1e4  # the slow one may say anything
    slow = ReferenceDecoder(**SIZES, **choices).double().eval()
    slow.load_state_dict(decoder.state_dict())
    options = DecodingConfig(beam_size=4, num_return_sequences=4, max_length=12)
    for image, found in zip(features, generate(decoder, features, options), strict=True):
        completed = slow.beam_search(image, 4, start=9, end=10, steps=12)
        expected = sorted(completed, key=lambda caption: -caption[1])
        finished = [caption for caption in found if caption.finished] or found
        words = [[9, *caption.words] + [10] * caption.finished for caption in finished]
        assert words == [line for line, _, _ in expected]
        scores = [score for _, score, _ in expected]
        assert [caption.score for caption in finished] == pytest.approx(scores, abs=1e-5)


def test_forward_of_shuffled_batch_gives_shuffled_output() -> None:
    decoder = random_decoder()
    features, captions = random_batch()
    lengths = torch.tensor([5, 5, 8, 5])
    order = torch.tensor([3, 1, 0, 2])
    output = decoder(features, captions, lengths)
    shuffled = decoder(features[order], captions[order], lengths[order])
    words = word_mask(lengths - 1, 8)[order]
    torch.testing.assert_close(shuffled.logits[words], output.logits[order][words], **EXACT)
    torch.testing.assert_close(shuffled.alphas, output.alphas[order], **EXACT)


@pytest.mark.parametrize("padding", [0, 10])
def test_forward_with_more_padding_gives_same_output(padding: int) -> None:
    decoder = random_decoder()
    features, captions = random_batch()
    tight = decoder(features, captions, LENGTHS)
    past = torch.arange(9) >= LENGTHS.unsqueeze(1)
    wide = torch.nn.functional.pad(captions.masked_fill(past, padding), (0, 4), value=padding)
    padded = decoder(features, wide, LENGTHS)
    words = word_mask(LENGTHS - 1, 8)
    torch.testing.assert_close(padded.logits[:, :8][words], tight.logits[words], **EXACT)
    torch.testing.assert_close(padded.alphas[:, :8], tight.alphas, **EXACT)
    assert padded.alphas.shape[1] == 12
    assert not padded.alphas[~word_mask(LENGTHS - 1, 12)].any()


def test_forward_of_feature_grid_equals_flattened_regions() -> None:
    decoder = random_decoder()
    features, captions = random_batch()
    grid = features.view(4, 2, 5, 4)
    expected = decoder(features, captions, LENGTHS)
    torch.testing.assert_close(decoder(grid, captions, LENGTHS), expected, **EXACT)


def test_reorder_picks_repeats_and_drops_rows() -> None:
    decoder = random_decoder()
    features, captions = random_batch()
    _, state = decoder.step(captions[:, 0], decoder.start(features))
    for index in ([2, 2, 0], [3, 1, 1, 0, 2, 3], [1, 1], [0, 1, 2, 3]):  # of four photos
        _, alone = decoder.step(captions[index, 0], decoder.start(features[index]))
        expected, _ = decoder.step(captions[index, 1], alone)
        reordered = decoder.reorder(state, torch.tensor(index))
        found, _ = decoder.step(captions[index, 1], reordered)
        torch.testing.assert_close(found, expected, **EXACT)
        few = len(set(index)) <= 2  # then photos without rows are dropped
        assert len(reordered.features) == (len(set(index)) if few else 4)


def test_fine_tune_embeddings_false_stops_gradient() -> None:
    decoder = random_decoder()
    vectors = torch.randn(11, 5)
    decoder.load_pretrained_embeddings(vectors)
    decoder.fine_tune_embeddings(False)
    features, captions = random_batch()
    decoder(features, captions, LENGTHS).logits.sum().backward()
    assert decoder.embedding.weight.grad is None
    assert torch.equal(decoder.embedding.weight, vectors)
    decoder.fine_tune_embeddings()
    decoder(features, captions, LENGTHS).logits.sum().backward()
    assert decoder.embedding.weight.grad.any()


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"attention": "firm"}, "attention is 'firm': choose one of soft, hard"),
        ({"test_attention": "no"}, "test_attention is 'no': choose one of expected, sampled, arg"),
        ({"attention_depth": 3}, "attention_depth is 3: choose one of 1, 2"),
        ({"dropout_sites": ("fc",)}, "dropout_sites is 'fc': choose one of mean, hidden, readout"),
        ({"activation": "gelu"}, "activation is 'gelu': choose one of tanh, relu"),
        ({"gate": "wide"}, "gate is 'wide': choose one of vector, scalar, none"),
        ({"initial_state": "zero"}, "initial_state is 'zero': choose one of tanh, linear"),
        ({"output": "flat"}, "output is 'flat': choose one of deep, linear"),
    ],
)
def test_decoder_unknown_choice_raises(choice: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DecoderWithAttention(**SIZES, **choice)


def test_set_attention_mode_argmax_changes_step() -> None:
    decoder, chosen = random_decoder(), random_decoder(test_attention="argmax")
    features, captions = random_batch()
    before, _ = decoder.step(captions[:, 0], decoder.start(features))
    decoder.set_attention_mode("argmax")
    after, _ = decoder.step(captions[:, 0], decoder.start(features))
    expected, _ = chosen.step(captions[:, 0], chosen.start(features))
    assert torch.equal(after, expected)
    assert (after - before).abs().max() > 1e-2


def test_set_attention_mode_unknown_raises_and_changes_nothing() -> None:
    decoder = random_decoder()
    with pytest.raises(ValueError, match="test_attention is 'no': choose one of expected, sampled"):
        decoder.set_attention_mode("no")
    assert decoder.test_attention == "expected"


def test_load_pretrained_embeddings_of_another_size_raises() -> None:
    with pytest.raises(ValueError, match=r"word vectors are \(11, 3\), the embedding is \(11, 5\)"):
        random_decoder().load_pretrained_embeddings(torch.zeros(11, 3))


def test_attention_with_two_regions_equals_numbers_by_hand() -> None:
    """One unit, two regions: e_i = 2 tanh(a_i + h), alpha = softmax(e)."""
    attention = Attention(encoder_dim=1, decoder_dim=1, attention_dim=1)
    for layer in (attention.encoder_att, attention.decoder_att, attention.full_att):
        torch.nn.init.constant_(layer.weight, 2 if layer is attention.full_att else 1)
        torch.nn.init.zeros_(layer.bias)
    features, hidden = torch.tensor([[[0.5], [-0.25]]]), torch.tensor([[0.25]])
    one = RaggedRows(torch.tensor([0]), 1, "cpu")
    context, alpha, _ = attention(features, attention.project(features), hidden, one, "expected")
    first = 1 / (1 + 2.718281828 ** (-2 * 0.635148952))  # tanh(0.75) - tanh(0) = 0.635148952
    torch.testing.assert_close(alpha, torch.tensor([[first, 1 - first]]), **EXACT)
    torch.testing.assert_close(context, torch.tensor([[0.75 * first - 0.25]]), **EXACT)


def test_step_from_state_made_without_gradients_has_gradient() -> None:
    decoder = random_decoder()
    with torch.no_grad():
        state = decoder.start(random_batch()[0])
    logits, _ = decoder.step(torch.tensor([1, 2, 3, 4]), state)
    logits.sum().backward()
    assert decoder.attention.decoder_att.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    "name", ["fc.weight", "decode_step.weight_hh", "attention.full_att.weight"]
)
@pytest.mark.parametrize("change", ["in place", "behind autograd's back", "fused optimizer"])
@torch.no_grad()
def test_decoder_weight_changed_in_place_changes_next_step(name: str, change: str) -> None:
    """No weight is kept in another form: a copy made afterwards says the same as the original."""
    decoder = random_decoder()
    features, captions = random_batch()
    weight = decoder.get_parameter(name)
    state = decoder.start(features)
    before, _ = decoder.step(captions[:, 0], state)
    if change == "in place":
        weight[:, 1:] *= 2  # column 0 stays
    elif change == "behind autograd's back":
        weight.data[:, 1:] *= 2
    else:
        weight.grad = torch.ones_like(weight)
        weight.grad[:, 0] = 0
        torch.optim.Adam([weight], lr=0.5, fused=True).step()
    after, _ = decoder.step(captions[:, 0], state)
    fresh = DecoderWithAttention(**SIZES).eval()
    fresh.load_state_dict(decoder.state_dict())
    expected, _ = fresh.step(captions[:, 0], fresh.start(features))
    torch.testing.assert_close(after, expected, rtol=0, atol=0)
    assert (after - before).abs().max() > 1e-2
