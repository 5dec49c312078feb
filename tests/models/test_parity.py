"""Our decoder, under the tutorial's recipe, against the numbers of its own (fixtures/README.md)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_decoder import ReferenceDecoder
from torch import Tensor

from sat.commands.train import parse
from sat.config.decoding import DecodingConfig
from sat.config.training import TrainConfig
from sat.decoding.generate import generate
from sat.models.base import Output
from sat.models.decoder import DecoderWithAttention
from sat.training.losses import cross_entropy, doubly_stochastic_penalty, word_mask
from sat.training.optim import OPTIMIZERS, optimizer_step, set_learning_rates

ROOT = Path(__file__).parents[2]
RECIPE: TrainConfig = parse(["--config", str(ROOT / "configs" / "tutorial_coco.yaml")])
EXACT = {"rtol": 0, "atol": 1e-5}
KEPT_OF_SEED_77 = [1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 1, 0, 0]
"""by dropout in the PyTorch that the fixture was made with; 2.6, for one, draws others"""


def tutorial_decoder(parity: dict[str, Any]) -> DecoderWithAttention:
    choices = dataclasses.asdict(RECIPE.decoder)  # the recipe's, in the sizes of the fixture
    decoder = DecoderWithAttention(**choices | parity["config"])
    decoder.load_state_dict(parity["state_dict"])
    special = parity["special"]
    decoder.start_id, decoder.end_id = special["start"], special["end"]
    decoder.pad_id, decoder.unk_id = special["pad"], special["unk"]
    return decoder.eval()


def losses(
    decoder: DecoderWithAttention, features: Tensor, parity: dict
) -> tuple[Output, Tensor, Tensor]:
    lengths = parity["caption_lengths"].flatten() - 1
    output = decoder(features, parity["captions"], parity["caption_lengths"])
    targets = parity["captions"][:, 1:]
    return (
        output,
        cross_entropy(output.logits, targets, lengths),
        doubly_stochastic_penalty(output.alphas, lengths, scaling=RECIPE.penalty_scaling),
    )


@pytest.mark.parametrize("mode", ["eval_mode", "train_mode_seed77"])
def test_decoder_equals_tutorial_logits_losses_and_gradients(
    parity: dict[str, Any], mode: str
) -> None:
    expected, decoder = parity[mode], tutorial_decoder(parity)
    features = parity["encoder_out"].clone().requires_grad_()
    if mode == "train_mode_seed77":
        decoder.train()
        torch.manual_seed(77)
        if torch.nn.functional.dropout(torch.ones(16)).bool().tolist() != KEPT_OF_SEED_77:
            pytest.skip(f"torch {torch.__version__} draws another dropout than the fixture's")
        torch.manual_seed(77)
    output, ce, penalty = losses(decoder, features, parity)
    order = expected["sort_ind"]
    words = word_mask(parity["caption_lengths"].flatten() - 1, 13)[order]
    torch.testing.assert_close(output.logits[order][words], expected["predictions"], **EXACT)
    torch.testing.assert_close(output.alphas[order], expected["alphas"], **EXACT)
    assert ce.item() == pytest.approx(expected["ce"], abs=1e-5)
    assert penalty.item() == pytest.approx(expected["doubly_stochastic"], abs=1e-5)

    (ce + RECIPE.alpha_c * penalty).backward()
    gradients = [parameter.grad for parameter in named_like(decoder, parity)]
    entries = torch.cat([gradient.flatten()[:: parity["step"]] for gradient in gradients])
    norms = torch.stack([gradient.norm() for gradient in gradients])
    torch.testing.assert_close(entries, expected["grads"]["entries"], **EXACT)
    torch.testing.assert_close(norms, expected["grads"]["norms"], **EXACT)
    if "grad_encoder_out" in expected:
        torch.testing.assert_close(features.grad, expected["grad_encoder_out"], **EXACT)


def named_like(decoder: DecoderWithAttention, parity: dict[str, Any]) -> list[Tensor]:
    parameters = dict(decoder.named_parameters())
    return [parameters[name] for name in parity["state_dict"]]


def test_loss_in_double_precision_equals_tutorial(parity: dict[str, Any]) -> None:
    decoder = tutorial_decoder(parity).double()
    output = decoder(parity["encoder_out"].double(), parity["captions"], parity["caption_lengths"])
    lengths = parity["caption_lengths"].flatten() - 1
    words = word_mask(lengths, 13)
    log_p = output.logits[words].log_softmax(dim=1)
    ce = -log_p.gather(1, parity["captions"][:, 1:][words].unsqueeze(1)).mean()
    loss = ce + doubly_stochastic_penalty(output.alphas, lengths, scaling="mean")
    assert loss.item() == pytest.approx(parity["loss_f64"], abs=1e-12)


def test_three_optimizer_steps_equal_tutorial(parity: dict[str, Any]) -> None:
    decoder = tutorial_decoder(parity)
    optimizer = OPTIMIZERS[RECIPE.stage1.optimizer]([{"params": list(decoder.parameters())}])
    set_learning_rates(optimizer, RECIPE.stage1, scale=1.0)

    def loss_of(features: Tensor) -> tuple[Tensor, dict[str, float]]:
        _, ce, penalty = losses(decoder, features, parity)
        return ce + RECIPE.alpha_c * penalty, {}

    for _ in range(3):
        optimizer_step(optimizer, [parity["encoder_out"]], loss_of, RECIPE)
    pairs = [
        # Softmax cancels this bias: its gradient is rounding noise, which Adam blows up.
        (name != "attention.full_att.bias", after, parity["state_dict"][name])
        for name, after in zip(parity["state_dict"], named_like(decoder, parity))
    ]
    counted = torch.cat(
        [torch.full_like(after.flatten()[:: parity["step"]], keep) for keep, after, _ in pairs]
    ).bool()
    entries = torch.cat([after.detach().flatten()[:: parity["step"]] for _, after, _ in pairs])
    expected = parity["after_3_adam_steps"]["entries"]
    torch.testing.assert_close(entries[counted], expected[counted], **EXACT)
    moved = torch.stack([(after - before).norm() for keep, after, before in pairs if keep])
    kept = torch.tensor([keep for keep, _, _ in pairs])
    torch.testing.assert_close(moved.detach(), parity["update_norms"][kept], **EXACT)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_beam_search_equals_tutorial_captions(parity: dict[str, Any], k: int) -> None:
    options = DecodingConfig(beam_size=k, num_return_sequences=k)
    found = generate(tutorial_decoder(parity), parity["beam_encodings"], options)
    for captions, expected in zip(found, parity["beam"][k], strict=True):
        assert captions[0].words == expected["seq"][1:-1]
        completed = sorted(expected["completed"], key=lambda pair: -pair[1])
        assert [caption.words for caption in captions] == [words[1:-1] for words, _ in completed]
        scores = [score for _, score in completed]
        assert [caption.score for caption in captions] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("k", [1, 3])
def test_beam_search_without_end_equals_tutorial(parity: dict[str, Any], k: int) -> None:
    decoder = tutorial_decoder(parity)
    decoder.fc.bias.data[parity["special"]["end"]] = -1e4
    expected = parity["beam_never_ends"][k]
    options = DecodingConfig(beam_size=k, num_return_sequences=k)
    found = generate(decoder, parity["beam_encodings"][: len(expected)], options)
    for captions, beams in zip(found, expected, strict=True):
        unfinished = [words[1:] for words, _ in beams["completed"]]
        assert [caption.words for caption in captions] == unfinished
        assert not any(caption.finished for caption in captions)
        # Some 60 nats over 51 steps: float32 keeps seven digits of the total.
        assert captions[0].score == pytest.approx(beams["score"], rel=1e-6)


def test_reference_decoder_equals_tutorial(parity: dict[str, Any]) -> None:
    """The oracle of test_decoder.py, held to account itself."""
    slow = ReferenceDecoder(**parity["config"]).eval()
    slow.load_state_dict(parity["state_dict"])
    logits, alphas = slow(parity["encoder_out"], parity["captions"], parity["caption_lengths"])
    order = parity["eval_mode"]["sort_ind"]
    words = word_mask(parity["caption_lengths"].flatten() - 1, 13)[order]
    expected = parity["eval_mode"]
    torch.testing.assert_close(logits[order][words], expected["predictions"], **EXACT)
    torch.testing.assert_close(alphas[order], expected["alphas"], **EXACT)
    start, end = parity["special"]["start"], parity["special"]["end"]
    for k in (1, 3, 5):
        for features, beam in zip(parity["beam_encodings"], parity["beam"][k], strict=True):
            found = slow.beam_search(features, k, start=start, end=end)
            assert [words for words, _, _ in found] == [words for words, _ in beam["completed"]]
            scores = [score for _, score in beam["completed"]]
            assert [score for _, score, _ in found] == pytest.approx(scores, abs=1e-5)
