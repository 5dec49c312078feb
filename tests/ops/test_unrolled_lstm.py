"""The hand-written gradient of the decoder against autograd's, through the paper read slowly."""

from __future__ import annotations

import copy

import pytest
import torch
from decoders import EVERY_CHOICE, SIZES, each_choice
from reference_decoder import ReferenceDecoder
from torch import Tensor, nn

from sat.models.decoder import DecoderWithAttention
from sat.ops import attention_scores
from sat.training.losses import word_mask

SCALE = 0.5
LENGTHS = torch.tensor([5, 9, 3, 8, 2, 9])


def pair(**choices: str) -> tuple[DecoderWithAttention, ReferenceDecoder]:
    """The same random weights in both, in double precision."""
    torch.manual_seed(5)
    fast = DecoderWithAttention(**SIZES, **choices).double()
    for weight in fast.parameters():
        nn.init.normal_(weight, std=SCALE)
    slow = ReferenceDecoder(**SIZES, **choices).double()
    slow.load_state_dict(fast.state_dict())
    return fast, slow


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


@each_choice
@pytest.mark.parametrize("training", [False, True], ids=["eval", "dropout"])
def test_every_gradient_is_autograds(choices: dict[str, str], training: bool) -> None:
    gradients = []
    for decoder in pair(**choices):
        features, captions = batch()
        features.requires_grad_()
        torch.manual_seed(1)
        measured(decoder.train(training)(features, captions, LENGTHS), LENGTHS).backward()
        named = {name: weight.grad for name, weight in decoder.named_parameters()}
        gradients.append(named | {"features": features.grad})
    for name, slow in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], slow, rtol=1e-9, atol=1e-11, msg=name)
        assert slow.abs().max() > 1e-4 or name == "attention.full_att.bias"


def test_several_captions_of_a_photo_are_as_many_photos() -> None:
    """Logits, maps, and the gradient of the features, which adds up over the captions."""
    decoder = pair(**EVERY_CHOICE[0])[0].eval()
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
def test_bfloat16_is_close(choices: dict[str, str]) -> None:
    """With captions enough that some which have ended are stepped through (`PackedCaptions`)."""
    random = torch.Generator().manual_seed(4)
    exact = copy.deepcopy(pair(**choices)[0]).float().eval()
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
        assert error < 0.05 or name == "attention.full_att.bias", (name, error)


@pytest.mark.parametrize("cached", [1, 71, 150])
@pytest.mark.parametrize("choices", [EVERY_CHOICE[0], EVERY_CHOICE[12]], ids=str)
def test_gradients_however_few_rows_the_cache_holds(
    choices: dict[str, str], cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of the hidden layer has 70 numbers: one at a time, two, and three."""
    monkeypatch.setattr(attention_scores, "SCORE_CACHE_ELEMENTS", cached)
    gradients = []
    for decoder in pair(**choices):
        features, captions = batch()
        measured(decoder.eval()(features, captions, LENGTHS), LENGTHS).backward()
        gradients.append({name: weight.grad for name, weight in decoder.named_parameters()})
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)
