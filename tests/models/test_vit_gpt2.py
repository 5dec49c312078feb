"""ViT + GPT-2: stepping with the cache is the whole pass, maps are of patches, parts freeze."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny
import tiny_vit
import torch
from tiny_vit import DECODERS, ENCODERS, OTHER_DECODERS
from transformers import CONFIG_MAPPING

from sat.config.training import StageConfig
from sat.models.vit_gpt2 import VitGpt2
from sat.training.losses import cross_entropy

CAPTIONS = torch.tensor([[2, 4, 5, 6, 7, 3], [2, 8, 3, 1, 1, 1], [2, 9, 10, 4, 3, 1]])
LENGTHS = torch.tensor([6, 3, 5])
PAIRS = [(encoder, "fresh:gpt2") for encoder in ENCODERS]
PAIRS += [("fresh:vit", name) for name in [*DECODERS, *OTHER_DECODERS] if name != "fresh:gpt2"]


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
@torch.inference_mode()
def test_stepping_with_the_cache_is_the_whole_pass(encoder, decoder):
    """Beams reordered on the way, and an older state that must survive the newer ones."""
    check_steps(tiny_vit.model(encoder=encoder, decoder=decoder))


@pytest.mark.parametrize("decoder", DECODERS)
@torch.inference_mode()
def test_stepping_from_a_start_that_pads_is_the_whole_pass(decoder):
    """GPT-2's tokens have one special: RoBERTa's whole pass counts words from after that start."""
    check_steps(tiny_vit.model(tiny_vit.Words(one_special=True, special=2), decoder=decoder))


def check_steps(model: VitGpt2) -> None:
    features = tiny_vit.features(model)
    whole = model(features, CAPTIONS, LENGTHS)
    order = torch.tensor([2, 0, 1, 0])
    state = model.start(features)
    for t in range(5):
        tokens = CAPTIONS[:, t] if t < 2 else CAPTIONS[order, t]
        logits, after = model.step(tokens, state)
        again, _ = model.step(tokens, state)
        assert torch.equal(logits, again), "a step changes the state it was given"
        rows = torch.arange(3) if t < 2 else order
        real = t < LENGTHS[rows] - 1
        torch.testing.assert_close(logits[real], whole.logits[rows][real, t], atol=1e-5, rtol=1e-5)
        state = model.reorder(after, order) if t == 1 else after
    other = model(features.roll(1, 0), CAPTIONS, LENGTHS).logits
    assert (other - whole.logits).abs().max() > 0.1, "the words do not depend on the photo"


@pytest.mark.parametrize("decoder", [*DECODERS, *OTHER_DECODERS])
@torch.inference_mode()
def test_rows_that_share_an_image_are_those_of_images_of_their_own(decoder):
    """Unequal numbers of rows, out of order, and an image without any; from the first word on."""
    model = tiny_vit.model(decoder=decoder)
    features, of_rows = tiny_vit.features(model), torch.tensor([2, 0, 2, 2])
    shared = model.reorder(model.start(features), of_rows)
    apart = model.start(features[of_rows])
    for word in ([2, 2, 2, 2], [4, 5, 6, 7], [9, 8, 4, 4]):
        found, shared = model.step(torch.tensor(word), shared)
        expected, apart = model.step(torch.tensor(word), apart)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        shared, apart = (model.reorder(one, torch.tensor([3, 1, 0, 0])) for one in (shared, apart))
    held = len(of_rows) if decoder == "fresh:trocr" else len(features)
    assert [len(layer.keys) for layer in shared.patches.layers] == [held] * 2


def test_attention_layer_that_the_decoder_lacks_is_named():
    """mBART's config has twelve layers, of the encoder that is not there."""
    with pytest.raises(ValueError, match="attention_layer is 2: the decoder has 2 layers"):
        tiny_vit.model(decoder="fresh:mbart", attention_layer=2)


@torch.inference_mode()
def test_state_that_was_reordered_is_as_before():
    model = tiny_vit.model()
    _, state = model.step(CAPTIONS[:, 0], model.start(tiny_vit.features(model)))
    expected, _ = model.step(CAPTIONS[:, 1], state)
    other = model.reorder(state, torch.tensor([2, 2, 0, 1, 1]))
    model.step(torch.tensor([4, 5, 6, 7, 8]), other)
    assert torch.equal(model.step(CAPTIONS[:, 1], state)[0], expected)


@pytest.mark.usefixtures("restless_threads")
@torch.inference_mode()
def test_threads_that_step_and_draw_maps_at_once_do_as_one():
    model = tiny_vit.model()
    features = tiny_vit.features(model)
    start = model.start(features)

    @torch.inference_mode()
    def both(_: int) -> tuple[torch.Tensor, torch.Tensor]:
        return model.step(CAPTIONS[:, 0], start)[0], model(features, CAPTIONS, LENGTHS).alphas

    expected = both(0)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(both, range(40)))
    for one in found:
        torch.testing.assert_close(one, expected)


@torch.inference_mode()
def test_several_captions_share_one_encoding():
    model = tiny_vit.model()
    features = tiny_vit.features(model)
    captions, lengths = CAPTIONS[[0, 1, 2, 0, 1, 2]], LENGTHS[[0, 1, 2, 0, 1, 2]]
    shared = model(features, captions, lengths)
    apart = model(features[[0, 0, 1, 1, 2, 2]], captions, lengths)
    torch.testing.assert_close(shared.logits, apart.logits)
    torch.testing.assert_close(shared.alphas, apart.alphas)
    with pytest.raises(ValueError, match="4 captions of 3 images"):
        model(features, CAPTIONS[[0, 1, 2, 0]], LENGTHS[[0, 1, 2, 0]])


@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize("head", [None, 0, 1])
@torch.inference_mode()
def test_maps_are_those_of_the_layer_and_head_worked_by_hand(layer, head):
    """Queries and keys taken from inside; the softmax is over class token and patches."""
    model = tiny_vit.model(attention_layer=layer, attention_head=head)
    features = tiny_vit.features(model)
    found, maps = maps_and_those_by_hand(model, features, layer)
    maps = maps.mean(1) if head is None else maps[:, head]
    expected = maps[..., 1:] / maps[..., 1:].sum(-1, keepdim=True)
    for row, length in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(found[row, : length - 1], expected[row, : length - 1])
        assert not found[row, length - 1 :].any(), "maps past the end"


def maps_and_those_by_hand(model, features, layer):
    """Ours, and each head's share of all tokens, before the special ones are left out."""
    block = model.decoder.transformer.h[layer]
    seen = []
    handle = block.ln_cross_attn.register_forward_hook(lambda *args: seen.append(args[2]))
    found = model(features, CAPTIONS, LENGTHS).alphas
    handle.remove()
    patches = model.network.enc_to_dec_proj(features)
    keys = block.crossattention.c_attn(patches)[..., :12].unflatten(2, (2, 6))
    queries = block.crossattention.q_attn(seen[0]).unflatten(2, (2, 6))
    scores = torch.einsum("btnd,bpnd->bntp", queries, keys) / math.sqrt(6)
    return found, scores.softmax(-1)


VISION = tiny_vit.PLAIN | {"patch_size": 8}
SPECIAL = {
    "deit": {},
    "yolos": {"num_detection_tokens": 11},
    "dinov2_with_registers": {"num_register_tokens": 8},
    "dinov3_vit": {"num_register_tokens": 9},
    "pixio": {"n_cls_tokens": 9},
    "radio": {},
}
"""encoders with special tokens before or after the patches, as many as make another square"""


@pytest.mark.parametrize("kind", SPECIAL)
@torch.inference_mode()
def test_maps_are_of_the_tokens_that_see_a_patch_wherever_they_stand(kind, monkeypatch):
    """The embeddings of patches, which no other tokens have been mixed with, follow the pixels."""
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this version of transformers has no {kind}")
    monkeypatch.setitem(tiny_vit.ENCODERS, f"fresh:{kind}", VISION | SPECIAL[kind])
    model, embedded = tiny_vit.model(encoder=f"fresh:{kind}"), []
    names = (name for name, _ in model.encoder.named_modules() if name.endswith("embeddings"))
    part = model.encoder.get_submodule(min(names, key=len))
    handle = part.register_forward_hook(lambda *args: embedded.append(args[2]))
    features = tiny_vit.features(model)
    handle.remove()
    (tokens,) = (one if torch.is_tensor(one) else one[0] for one in embedded)
    places = (tokens[0] != tokens[1]).any(dim=1).nonzero().flatten()
    assert len(places) == 16
    assert features.shape[1] > 16
    found, maps = maps_and_those_by_hand(model, features, -1)
    expected = maps.mean(1)[..., places]
    expected = expected / expected.sum(-1, keepdim=True)
    torch.testing.assert_close(found[0], expected[0])


def test_maps_of_an_encoder_with_unknown_special_tokens_are_refused():
    model = tiny_vit.model()
    features = tiny_vit.features(model)
    more = torch.cat([features, features[:, :3]], dim=1)
    with pytest.raises(
        ValueError, match="encoder is 20: which of them are patches is not known of"
    ):
        model(more, CAPTIONS, LENGTHS)


@pytest.mark.parametrize(("encoder", "specials"), list(zip(ENCODERS, (1, 2, 1, 0))))
@torch.inference_mode()
def test_class_tokens_are_seen_but_not_drawn(encoder, specials):
    model = tiny_vit.model(encoder=encoder)
    features = tiny_vit.features(model)
    patches = 4 if "swin" in encoder else 16
    assert features.shape[1] == patches + specials
    alphas = model(features, CAPTIONS, LENGTHS).alphas
    assert alphas.shape == (3, 5, patches)
    torch.testing.assert_close(alphas[0].sum(-1), torch.ones(5))


@pytest.mark.parametrize("one_special", [False, True])
@torch.inference_mode()
def test_the_loss_is_the_hand_worked_one_and_hugging_faces(one_special):
    """Its own loss is right when labels are not shifted twice (transformers 4.50 to PR 40863).

    With one special token the end is the padding too, and must be a target all the same.
    """
    words = tiny_vit.Words(one_special=one_special)
    model = tiny_vit.model(words)
    features = tiny_vit.features(model)
    captions = CAPTIONS.clone()
    if one_special:
        captions[captions <= 3] = 0
    output = model(features, captions, LENGTHS)
    ours = cross_entropy(output.logits, captions[:, 1:], LENGTHS - 1).item()
    targets = [(row, t) for row in range(3) for t in range(LENGTHS[row] - 1)]
    assert len(targets) == 11
    by_hand = 0.0
    for row, t in targets:
        logits = output.logits[row, t].double()
        by_hand -= (logits[captions[row, t + 1]] - logits.exp().sum().log()).item() / len(targets)
    assert ours == pytest.approx(by_hand, rel=1e-5)
    labels = captions[:, 1:].clone()
    labels[torch.arange(5) >= LENGTHS.unsqueeze(1) - 1] = -100
    assert (labels == words.end_id).sum() == 3, "every end is a target"
    theirs = model.network(encoder_outputs=(features,), labels=labels)
    assert ours == pytest.approx(theirs.loss.item(), rel=1e-5)
    torch.testing.assert_close(theirs.logits[0], output.logits[0], atol=1e-5, rtol=1e-5)


JOINS = ("crossattention", "ln_cross_attn", "enc_to_dec_proj")


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("trainable", ["cross_attention", "decoder", "all"])
def test_only_what_was_chosen_learns(trainable, decoder):
    model = tiny_vit.model(decoder=decoder)
    model.set_trainable(StageConfig(trainable=trainable))
    model.train()
    before = tiny.weights(model)
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=1.0)
    features = model.encode(torch.randn(3, 3, 32, 32))
    logits = model(features, CAPTIONS, LENGTHS).logits
    cross_entropy(logits, CAPTIONS[:, 1:], LENGTHS - 1).backward()
    optimizer.step()
    changed = {name.removeprefix("network.") for name in tiny.changed(before, model)}
    assert model.encoder.training == (trainable == "all")
    assert any(name.startswith("encoder.") for name in changed) == (trainable == "all")
    joins = {name for name in changed if any(part in name for part in JOINS)}
    assert len(joins) >= 2 * 8
    assert (changed == joins) == (trainable == "cross_attention")


def test_unlearnable_choices_are_named():
    with pytest.raises(ValueError, match="trainable is 'some': choose one of cross_attention"):
        StageConfig(trainable="some")
    with pytest.raises(ValueError, match="attention_layer is 2: the decoder has 2 layers of 2"):
        tiny_vit.model(attention_layer=2)
    with pytest.raises(ValueError, match="attention_head is 2: the decoder has 2 layers of 2"):
        tiny_vit.model(attention_head=2)


@pytest.mark.parametrize("decoder", [*DECODERS, "fresh:xlm-roberta", "fresh:camembert"])
@torch.inference_mode()
def test_a_caption_longer_than_the_positions_is_named(decoder):
    """XLM-RoBERTa and CamemBERT count from after the padding, as RoBERTa."""
    key = "n_positions" if decoder == "fresh:gpt2" else "max_position_embeddings"
    sizes = tiny_vit.DECODERS.get(decoder, tiny_vit.DECODERS["fresh:roberta"])
    changed = sizes | {key: 5 + sizes[key] - 24}
    model = tiny_vit.model(decoder=decoder, decoder_config=changed)
    features = tiny_vit.features(model)
    model(features, CAPTIONS, LENGTHS)
    with pytest.raises(ValueError, match="caption is 6: the decoder has positions for 5 tokens"):
        model(features, torch.full((3, 7), 4), torch.full((3,), 7))
    state = model.start(features)
    for _ in range(5):
        _, state = model.step(torch.full((3,), 4), state)
    with pytest.raises(ValueError, match="lower max_length"):
        model.step(torch.full((3,), 4), state)


@pytest.mark.parametrize("mode", ["expected", "sampled", "argmax"])
def test_set_attention_mode_of_vit_gpt2_raises_instead_of_being_ignored(mode: str) -> None:
    with pytest.raises(ValueError, match=f"test_attention is '{mode}': .* leave it out"):
        tiny_vit.model().set_attention_mode(mode)


@pytest.mark.parametrize("decoder", DECODERS)
def test_training_without_maps_is_fused_and_equal_to_training_with_maps(decoder, monkeypatch):
    """Same logits and gradient; each of two layers attends to words and to patches."""
    names = ("embd_pdrop", "attn_pdrop", "resid_pdrop")
    if decoder != "fresh:gpt2":
        names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    model = tiny_vit.model(decoder=decoder, decoder_config=dict.fromkeys(names, 0.0)).train()
    found, calls, fused = [], [], torch.nn.functional.scaled_dot_product_attention
    features = tiny_vit.features(model)
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *args, **options: calls.append(1) or fused(*args, **options),
    )
    for maps in (True, False):
        model.zero_grad()
        output = model(features, CAPTIONS, LENGTHS, output_attentions=maps)
        cross_entropy(output.logits, CAPTIONS[:, 1:], LENGTHS - 1).backward()
        gradient = {name: w.grad for name, w in model.decoder.named_parameters()}
        found.append((output.logits[0], gradient))
        assert (output.alphas is not None) == maps
        assert len(calls) == (0 if maps else 4)
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("decoder", DECODERS)
@torch.inference_mode()
def test_evaluation_after_a_training_step_is_as_before_it_to_the_last_bit(decoder):
    """Else a run that is resumed after validation would not be the run that was not stopped."""
    model = tiny_vit.model(decoder=decoder)
    features = tiny_vit.features(model)
    start = model.start(features)
    whole, (step, _) = model(features, CAPTIONS, LENGTHS), model.step(CAPTIONS[:, 0], start)
    model.train()(features, CAPTIONS, LENGTHS, output_attentions=False)
    model.eval()
    assert torch.equal(model.step(CAPTIONS[:, 0], start)[0], step)
    assert torch.equal(model(features, CAPTIONS, LENGTHS).alphas, whole.alphas)
