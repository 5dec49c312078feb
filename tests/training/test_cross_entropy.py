"""One step of learning and one validation, against slow code that shares nothing with them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import scripted
import steps
import tiny
import torch
from reference_decoder import ReferenceDecoder
from torch import Tensor, nn

from sat.captioner import Captioner
from sat.config.decoding import DecodingConfig
from sat.config.training import TrainConfig
from sat.data.dataloader import Batch
from sat.data.dataset import CaptionDataset
from sat.metrics.bleu import bleu
from sat.training.validation import validate

RATE = 0.01
NEVER_LEARNS = "attention.full_att.bias"  # a softmax does not change when all scores rise


@pytest.fixture
def captioner() -> Captioner:
    """A captioner without dropout, gentle enough that one step is not lost in rounding."""
    captioner = tiny.captioner()
    with torch.no_grad():
        for weight in captioner.model.decoder.parameters():
            weight.mul_(0.3)
    captioner.model.decoder.dropout.p = 0.0
    captioner.model.train()
    return captioner


def batch_for(captioner: Captioner) -> Batch:
    """Four pictures with captions of four lengths."""
    lines = [captioner.vocabulary.encode(text.split()) for text in ("a", *tiny.CAPTIONS[:2])]
    lines.append(captioner.vocabulary.encode(tiny.OTHERS[3].split()))
    lengths = [len(line) for line in lines]
    captions = torch.tensor([line + [0] * (max(lengths) - len(line)) for line in lines])
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Batch(images, captions, torch.tensor(lengths), torch.arange(4))


def by_hand(captioner: Captioner, batch: Batch) -> tuple[ReferenceDecoder, Tensor, Tensor]:
    """A copy of the decoder in the reference's code, and both parts of its loss, word by word."""
    decoder = captioner.model.decoder
    slow = ReferenceDecoder(
        *(8, 8, 8, decoder.vocab_size, 16, 0.0),
        activation="tanh",
        initial_state="tanh",
        output="deep",
    )
    precision = decoder.fc.weight.dtype
    slow.to(precision).load_state_dict(decoder.state_dict())
    mean = torch.tensor(captioner.preprocessing.mean).view(3, 1, 1)
    std = torch.tensor(captioner.preprocessing.std).view(3, 1, 1)
    with torch.no_grad():
        pixels = (batch.images / 255 - mean) / std
        features = captioner.model.encoder(pixels.to(precision)).flatten(1, 2)
    logits, alphas = slow(features, batch.captions, batch.lengths)
    total, penalty, words = torch.zeros(()), torch.zeros(()), 0
    for i, length in enumerate(batch.lengths.tolist()):
        for t in range(length - 1):
            total = total - logits[i, t].log_softmax(0)[batch.captions[i, t + 1]]
            words += 1
        for region in range(alphas.shape[2]):
            penalty = penalty + (1 - alphas[i, : length - 1, region].sum()) ** 2
    return slow, total / words, penalty / words


def step(
    captioner: Captioner, batch: Batch, optimizer: torch.optim.Optimizer, **config: Any
) -> dict[str, float]:
    config = TrainConfig(**config)
    return steps.learn(captioner.model, optimizer, batch, config)


@pytest.mark.parametrize("alpha_c", [0.0, 0.5])
def test_one_step_by_hand(captioner, alpha_c):
    batch, decoder = batch_for(captioner), captioner.model.decoder
    slow, likelihood, penalty = by_hand(captioner, batch)
    (likelihood + alpha_c * penalty).backward()
    plain = torch.optim.SGD(decoder.parameters(), lr=RATE)
    losses = step(captioner, batch, plain, alpha_c=alpha_c, grad_clip=0.0)
    norm = sum(weight.grad.square().sum() for weight in slow.parameters()).sqrt()
    expected = {"cross_entropy": likelihood, "penalty": penalty, "gradient_norm": norm}
    expected = {name: value.item() for name, value in expected.items()}
    assert losses == pytest.approx(expected, rel=1e-5)
    moved = dict(decoder.named_parameters())
    for name, weight in slow.named_parameters():
        expected = weight - RATE * weight.grad
        assert torch.allclose(moved[name], expected, atol=1e-6), name
        assert name == NEVER_LEARNS or not torch.equal(moved[name], weight), name


def test_adams_first_step_goes_by_the_sign(captioner):
    batch, decoder = batch_for(captioner), captioner.model.decoder
    slow, likelihood, penalty = by_hand(captioner, batch)
    (likelihood + 0.1 * penalty).backward()
    adam = torch.optim.Adam(decoder.parameters(), lr=RATE)
    step(captioner, batch, adam, alpha_c=0.1, grad_clip=0.0)
    moved = dict(decoder.named_parameters())
    for name, weight in slow.named_parameters():
        far = weight.grad.abs() > 1e-4  # for others the epsilon and rounding tell
        expected = weight - RATE * weight.grad.sign()
        assert name == NEVER_LEARNS or far.any(), name  # 0.001 and more under twelve seeds
        assert torch.allclose(moved[name][far], expected[far], atol=1e-5), name


@pytest.mark.parametrize("share", [0.01, 0.5, 100.0])
def test_grad_clip_below_the_norm_scales_the_whole_gradient(captioner, share):
    batch, decoder = batch_for(captioner), captioner.model.decoder
    slow, likelihood, penalty = by_hand(captioner, batch)
    (likelihood + penalty).backward()
    gradients = {name: weight.grad for name, weight in slow.named_parameters()}
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
    largest = share * norm
    before = tiny.weights(decoder)
    plain = torch.optim.SGD(decoder.parameters(), lr=RATE)
    step(captioner, batch, plain, alpha_c=1.0, grad_clip=largest)
    for name, gradient in gradients.items():
        expected = before[name] - RATE * gradient * min(1, share)
        assert torch.allclose(decoder.state_dict()[name], expected, atol=1e-6), name


def test_a_loss_that_is_no_number_changes_nothing(captioner):
    batch, decoder = batch_for(captioner), captioner.model.decoder
    adam = torch.optim.Adam(decoder.parameters(), lr=RATE)
    with torch.no_grad():
        decoder.fc.bias[3] = math.inf
    before = tiny.weights(captioner.model)
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        step(captioner, batch, adam)
    now = tiny.weights(captioner.model)
    assert torch.equal(now.pop("decoder.fc.bias"), before.pop("decoder.fc.bias"))
    assert tiny.equal(before, now)
    assert not adam.state


def test_nothing_of_an_earlier_batch_is_left_in_the_gradient(captioner):
    batch = batch_for(captioner)
    other = tiny.captioner()
    other.model.load_state_dict(captioner.model.state_dict())
    other.model.decoder.dropout.p = 0.0
    for weight in captioner.model.decoder.parameters():
        weight.grad = torch.ones_like(weight)
    for one in (captioner, other):
        step(one, batch, torch.optim.SGD(one.model.decoder.parameters(), lr=RATE))
    assert tiny.equal(tiny.weights(captioner.model), tiny.weights(other.model))


@pytest.mark.parametrize("size", [5, 64])
def test_validate_equals_numbers_by_hand(tmp_path, size):
    """One caption an image counts, each word the same; and the words really said are scored.

    The end is always among the five likeliest words, and "red" never is. In double precision, in
    which no rounding makes another caption, however images share a batch.
    """
    captioner = tiny.captioner().to(torch.float64)
    with torch.no_grad():
        captioner.model.decoder.fc.bias[captioner.vocabulary.end_id] += 40
        captioner.model.decoder.fc.bias[captioner.vocabulary.encode(["red"])[1]] -= 40
    folder = tiny.prepare(tmp_path, known=2)
    val = CaptionDataset(folder, tiny.NAME.format(2), "val")
    decoding = DecodingConfig(beam_size=2, max_length=9, min_length=4)
    config = TrainConfig(validation=decoding, validation_batch_size=size, label_smoothing=0.3)
    captioner.model.train()  # dropout must not be at work
    found = validate(captioner, val, config)
    captioner.model.eval()
    total = hits = words = 0
    for index in range(0, len(val), 2):
        sample = val[index]
        batch = Batch(sample.image[None], sample.caption[None], torch.tensor([sample.length]), None)
        slow, likelihood, _ = by_hand(captioner, batch)
        total += likelihood.item() * (sample.length - 1)
        hits += _hits(slow, captioner, sample)
        words += sample.length - 1
    assert found["val_cross_entropy"] == pytest.approx(total / words, rel=1e-5)
    assert found["teacher_forced_top5"] == pytest.approx(hits / words, rel=1e-6)
    assert tiny.PHOTOS <= hits <= words - 4, "four captions are of something red"
    order = [(i - 5) % tiny.PHOTOS for i in range(tiny.PHOTOS)]
    said = captioner.caption_all([folder / f"{i}.png" for i in order], decoding)
    references = [[tiny.CAPTIONS[i], tiny.OTHERS[i]] for i in order]
    expected = bleu(references, [result.text for result in said])
    assert {name: found[name] for name in expected} == expected


def test_validate_scores_what_is_decoded_against_all_captions(tmp_path):
    folder = tiny.prepare(tmp_path, known=2)
    val = CaptionDataset(folder, tiny.NAME.format(2), "val")
    decoding = DecodingConfig(beam_size=2, max_length=9)
    found = validate(scripted.captioner(folder), val, TrainConfig(validation=decoding))
    references = [[*pair] for pair in zip(tiny.CAPTIONS, tiny.OTHERS)]
    expected = bleu(references, scripted.captions(scripted.BEAM, 9))
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert 0 < expected["Bleu_4"] < 1  # six captions are right, six are not


def _hits(slow: nn.Module, captioner: Captioner, sample: Any) -> int:
    """Words of the caption that are among the five likeliest, each sorted out in full."""
    photo = captioner.encode([_picture(sample.image)])
    with torch.no_grad():
        logits, _ = slow(photo, sample.caption[None], torch.tensor([sample.length]))
    ranked = logits[0].argsort(dim=-1, descending=True)
    return sum(
        int(sample.caption[t + 1]) in ranked[t, :5].tolist() for t in range(sample.length - 1)
    )


def _picture(pixels: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray(pixels.permute(1, 2, 0).numpy())
