"""The decoder's hand-written gradient against autograd's, through the plain unroll by steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from decoders import EVERY_CHOICE, SIZES, each_choice
from torch import Tensor, nn

from sat.models.base import Output
from sat.models.decoder import DecoderWithAttention
from sat.ops import attention_scores
from sat.training.losses import word_mask

LENGTHS = torch.tensor([5, 9, 3, 8, 2, 9])


def double_decoder(**choices: Any) -> DecoderWithAttention:
    """Random weights in double precision, without dropout."""
    torch.manual_seed(5)
    decoder = DecoderWithAttention(**SIZES, **choices).double()
    for weight in decoder.parameters():
        nn.init.normal_(weight, std=0.5)
    return decoder.eval()


def batch() -> tuple[Tensor, Tensor]:
    features = torch.randn(6, 10, 4, generator=torch.Generator().manual_seed(2)).double()
    captions = torch.randint(11, (6, 9), generator=torch.Generator().manual_seed(3))
    return features, captions


def measured(output: tuple[Tensor, Tensor], lengths: Tensor) -> Tensor:
    """A number that feels every logit of a real word, and every map, each in its own way."""
    logits, alphas = output[:2]
    random = torch.Generator().manual_seed(7)
    shape = (len(lengths), 8)
    of_logits = torch.randn(*shape, 11, generator=random).double()
    of_alphas = torch.randn(*shape, 10, generator=random).double()
    mask = word_mask(lengths - 1, 8)
    return (logits.sin() * of_logits)[mask].sum() + 3 * (alphas * of_alphas).sum()


def output_and_gradients(
    decoder: DecoderWithAttention, unroll: Callable[..., Output]
) -> dict[str, Tensor]:
    """The logits, maps and gradients of a batch that is unrolled in this way."""
    features, captions = batch()
    features.requires_grad_()
    decoder.zero_grad()
    torch.manual_seed(1)
    output = unroll(features, captions, LENGTHS)
    measured(output, LENGTHS).backward()
    found = {name: weight.grad.clone() for name, weight in decoder.named_parameters()}
    words = word_mask(LENGTHS - 1, 8)
    found |= {"features": features.grad, "logits": output.logits[words], "alphas": output.alphas}
    return found if output.locations is None else found | {"locations": output.locations}


@each_choice
@pytest.mark.parametrize("training", [False, True], ids=["eval", "dropout"])
def test_forward_equals_unroll_by_step_with_autograd(
    choices: dict[str, Any], training: bool
) -> None:
    decoder = double_decoder(**choices).train(training)
    found = output_and_gradients(decoder, decoder)
    plain = output_and_gradients(decoder, decoder.unroll_by_step)
    assert found.keys() == plain.keys()
    for name, expected in plain.items():
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-11, msg=name)
        assert expected.abs().max() > 1e-4 or name == "attention.full_att.bias"


@pytest.mark.parametrize("mode", ["sampled", "argmax"])
def test_forward_with_selected_locations_equals_unroll_by_step(mode: str) -> None:
    decoder = double_decoder()
    decoder.set_attention_mode(mode)
    found = output_and_gradients(decoder, decoder)
    plain = output_and_gradients(decoder, decoder.unroll_by_step)
    assert torch.equal(found["locations"].sum(2), word_mask(LENGTHS - 1, 8).double())
    for name, expected in plain.items():
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-11, msg=name)


def test_forward_several_captions_of_an_image_equal_repeated_images() -> None:
    """Logits, maps, and the gradient of the features, which adds up over the captions."""
    decoder = double_decoder(**EVERY_CHOICE[0])
    features, captions = batch()
    features, found = features[:2], []
    for repeats in (1, 3):
        rows = features.repeat_interleave(3 // repeats, 0).requires_grad_()
        output = decoder(rows, captions, LENGTHS)
        measured(output, LENGTHS).backward()
        found.append((*output[:2], rows.grad))
    expected = found[0][2].unflatten(0, (2, 3)).sum(1)
    torch.testing.assert_close(found[1][:2], found[0][:2])
    torch.testing.assert_close(found[1][2], expected)
    with pytest.raises(ValueError, match="6 captions of 4 images: give as many of each image"):
        decoder(features.repeat(2, 1, 1), captions, LENGTHS)


@pytest.mark.parametrize(
    "choices", EVERY_CHOICE[:24:5], ids=lambda choices: "-".join(choices.values())
)
def test_forward_in_bfloat16_is_close_to_float32(choices: dict[str, str]) -> None:
    """With captions enough that some which have ended are stepped through (`PackedCaptions`)."""
    random = torch.Generator().manual_seed(4)
    exact = double_decoder(**choices).float()
    features = torch.randn(40, 10, 4, generator=random)
    captions = torch.randint(11, (40, 9), generator=random)
    lengths = torch.randint(2, 10, (40,), generator=random)
    lengths[0] = 9
    gradients, outputs = [], []
    for enabled in (False, True):
        exact.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = exact(features, captions, lengths)
        mask = word_mask(lengths - 1, 8)
        logits, alphas = output.logits.float(), output.alphas.float()
        (logits[mask].square().mean() + alphas.square().sum()).backward()
        outputs.append((logits, alphas))
        gradients.append({name: weight.grad.clone() for name, weight in exact.named_parameters()})
    for single, half in zip(*outputs):
        torch.testing.assert_close(half, single, rtol=0, atol=0.05 * single.abs().max().item())
        assert torch.equal(half == 0, single == 0)
    for name, single in gradients[0].items():
        error = (gradients[1][name] - single).norm() / single.norm().clamp_min(1e-6)
        # measured up to 0.083 over six seeds: eight bits of mantissa, summed over eight steps
        assert error < 0.2 or name == "attention.full_att.bias", (name, error)


@pytest.mark.parametrize("cached", [1, 71, 150])
@pytest.mark.parametrize("choices", [EVERY_CHOICE[0], EVERY_CHOICE[12]], ids=str)
def test_unroll_with_any_chunk_size_gives_same_gradients(
    choices: dict[str, str], cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of the hidden layer has 70 numbers: one at a time, two, and three."""
    monkeypatch.setattr(attention_scores, "SCORE_CACHE_ELEMENTS", cached)
    decoder = double_decoder(**choices)
    found = output_and_gradients(decoder, decoder)
    monkeypatch.undo()
    for name, expected in output_and_gradients(decoder, decoder).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-11, msg=name)
