"""Hard attention: its gradient against all paths of locations, enumerated; its draws; its choices.

A caption of three words over three regions: 27 paths, each computed by the reference.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from reference_decoder import ReferenceDecoder
from steps import cross_entropy_objective
from torch import Tensor, nn

from sat.config.objectives import HardAttentionConfig
from sat.config.training import TrainConfig
from sat.data.dataloader import Batch, microbatches
from sat.models import decoder as decoder_module
from sat.models.decoder import DecoderWithAttention
from sat.models.show_attend_tell import ShowAttendTell
from sat.ops import unrolled_lstm
from sat.training.losses import cross_entropy, variational_terms, word_mask

SIZES = (5, 4, 6, 8, 4, 0.0)  # attention, embedding, hidden, words, features; no dropout
OURS = {"activation": "tanh", "gate": "vector", "initial_state": "tanh", "output": "deep"}
CAPTION, WORDS = torch.tensor([[6, 1, 3, 7]]), 3
PATHS = torch.tensor(list(itertools.product(range(3), repeat=WORDS)))  # (27, 3)
NEVER_LEARNS = "attention.full_att.bias"


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> DecoderWithAttention:
    """In training, always drawing; with weights large enough for the place to matter."""
    monkeypatch.setattr(decoder_module, "EXPECTED_SHARE", 0.0)
    torch.manual_seed(4)
    decoder = DecoderWithAttention(*SIZES, **OURS, attention="hard")
    for weight in decoder.parameters():
        nn.init.normal_(weight, std=0.8)
    return decoder.train()


def reference(decoder: DecoderWithAttention) -> ReferenceDecoder:
    slow = ReferenceDecoder(*SIZES, **OURS)
    weights = decoder.state_dict()
    weights.pop("baseline", None)
    slow.load_state_dict(weights)
    return slow


def one_image() -> Tensor:
    return 1.5 * torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(2))


def every_path(slow: ReferenceDecoder, features: Tensor) -> tuple[Tensor, Tensor]:
    """log p(s) and log p(y | s), float[27] each, of all paths, computed as one batch."""
    rows = len(PATHS)
    captions, lengths = CAPTION.expand(rows, -1), torch.full((rows,), WORDS + 1)
    logits, alphas = slow(features.expand(rows, -1, -1), captions, lengths, PATHS)
    log_s = alphas.gather(2, PATHS.unsqueeze(2)).squeeze(2).log().sum(1)
    log_p = logits.log_softmax(2).gather(2, captions[:, 1:].unsqueeze(2)).squeeze(2).sum(1)
    return log_s, log_p


def gradient(module: nn.Module, loss: Tensor) -> Tensor:
    """Of all that learns, in the order of the names, as one vector."""
    found = dict(module.named_parameters())
    names = sorted(found.keys() - {NEVER_LEARNS})
    parts = torch.autograd.grad(loss, [found[name] for name in names])
    return torch.cat([part.flatten() for part in parts])


def exact_gradient(decoder: DecoderWithAttention) -> Tensor:
    """Of minus the bound sum_s p(s) log p(y | s), a word."""
    slow = reference(decoder)
    log_s, log_p = every_path(slow, one_image())
    assert log_s.exp().sum().item() == pytest.approx(1, abs=1e-5)
    return gradient(slow, -(log_s.exp() * log_p).sum() / WORDS)


def estimates(decoder: DecoderWithAttention, baseline: float, patch) -> Tensor:
    """The estimate, float[27, W], that each path gives when it is the one sampled."""
    found = []
    for path in PATHS:
        places = iter(path)

        def drawn(alpha: Tensor, look: str, places=places) -> Tensor:
            assert look == "sampled"
            return nn.functional.one_hot(next(places), 3).to(alpha).expand_as(alpha)

        patch.setattr(unrolled_lstm, "select_locations", drawn)
        lengths = torch.tensor([WORDS])
        output = decoder(one_image(), CAPTION, lengths + 1)
        targets = CAPTION[:, 1:]
        terms = variational_terms(
            output.logits, targets, lengths, output.alphas, output.locations, torch.tensor(baseline)
        )
        loss = cross_entropy(output.logits, targets, lengths) + terms.reinforce
        found.append(gradient(decoder, loss))
    return torch.stack(found)


@pytest.mark.parametrize("baseline", [0.0, -1.3])
def test_reinforce_mean_over_all_paths_equals_gradient_of_bound(decoder, baseline, monkeypatch):
    likely = every_path(reference(decoder), one_image())[0].exp().detach()
    mean = likely @ estimates(decoder, baseline, monkeypatch)
    torch.testing.assert_close(mean, exact_gradient(decoder), atol=2e-6, rtol=1e-4)


def test_reinforce_with_baseline_has_lower_variance(decoder, monkeypatch):
    log_s, log_p = (part.detach() for part in every_path(reference(decoder), one_image()))
    likely, usual = log_s.exp(), float(log_s.exp() @ log_p) / WORDS
    variances = []  # the second is 0.01 to 0.04 of the first, under eight seeds of the weights
    for baseline in (0.0, usual):
        each = estimates(decoder, baseline, monkeypatch)
        variances.append(float(likely @ (each - likely @ each).square().sum(1)))
    assert variances[1] < 0.5 * variances[0]


def captioner(decoder: DecoderWithAttention) -> ShowAttendTell:
    return ShowAttendTell(
        encoder=nn.Identity(), decoder=decoder, start_id=6, end_id=7, pad_id=0, unk_id=5
    )


def steps(decoder: DecoderWithAttention, number: int, size: int = 8, **hard: float) -> Tensor:
    """The gradients float[number, W] of so many steps of learning, on `size` captions each."""
    batch = Batch(
        one_image().expand(size, -1, -1),
        CAPTION.expand(size, -1),
        torch.full((size,), WORDS + 1),
        torch.arange(size),
    )
    config, seen = TrainConfig(alpha_c=0.0, hard=HardAttentionConfig(**hard)), []
    objective = cross_entropy_objective(captioner(decoder), config)
    torch.manual_seed(0)
    for _ in range(number):
        with objective.step(batch, 0) as loss_of:
            loss, metrics = loss_of(batch)
        seen.append(gradient(decoder, loss))
        objective.after_step(metrics)
    return torch.stack(seen)


def test_training_steps_average_to_exact_gradient(decoder):
    """Along the exact gradient, along its part for attention, and over all weights.

    To 5 standard errors; the exact gradient is longer than ten of them (73 and 77 measured).
    """
    exact = exact_gradient(decoder)
    seen = steps(decoder, 1000, size=32, reward=1.0, entropy=0.0)
    found = dict(decoder.named_parameters())
    names = [name for name in sorted(found) if name != NEVER_LEARNS]
    attention = torch.cat(
        [torch.full((found[name].numel(),), name.startswith("attention")) for name in names]
    )
    for direction in (exact, exact * attention):
        along = seen @ direction
        error = along.std() / len(seen) ** 0.5
        assert abs(along.mean() - exact @ direction) < 5 * error
        assert exact @ direction > 10 * error, "too few draws to tell"
    error = seen.std(0) / len(seen) ** 0.5
    moved = error > 1e-7
    squares = ((seen.mean(0) - exact)[moved] / error[moved]).square()
    assert squares.mean() < 5**2  # about one; 5 errors, if all weights went together


def test_microbatches_share_one_draw_of_soft_or_hard(decoder, monkeypatch):
    batch = Batch(
        one_image().expand(4, -1, -1), CAPTION.expand(4, -1), torch.full((4,), WORDS + 1),
        torch.arange(4),
    )  # fmt: skip
    drawn = []
    monkeypatch.setattr(decoder_module, "EXPECTED_SHARE", 0.5)
    objective = cross_entropy_objective(captioner(decoder), TrainConfig())
    torch.manual_seed(0)
    for _ in range(40):
        with objective.step(batch, 0) as loss_of:
            metrics = [loss_of(part)[1] for part in microbatches(batch, 4)]
        drawn.append([one.get("sampled_words", 0) > 0 for one in metrics])
    assert [len(parts) for parts in drawn] == [4] * 40
    assert all(len(set(parts)) == 1 for parts in drawn)
    assert {parts[0] for parts in drawn} == {True, False}


def test_variational_terms_equal_numbers_by_hand():
    """Two captions, of two words and one; three regions, of which these were drawn: 1, 2 and 0."""
    probabilities = torch.tensor([[[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]], [[0.7, 0.2, 0.1], [0] * 3]])
    looks = torch.tensor([[[0.0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 0]]])
    said = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], [[0.3, 0.3, 0.4], [0.9, 0.1, 0.0]]])
    targets, lengths = torch.tensor([[0, 1], [2, 0]]), torch.tensor([2, 1])
    terms = variational_terms(
        said.log(), targets, lengths, probabilities, looks, torch.tensor(-0.5)
    )
    log = math.log
    first, second = log(0.5) + log(0.8), log(0.4)
    reinforce = (first + 1.0) * (log(0.5) + log(0.1)) + (second + 0.5) * log(0.7)
    maps = [(0.2, 0.5, 0.3), (0.6, 0.3, 0.1), (0.7, 0.2, 0.1)]
    entropy = -sum(p * log(p) for row in maps for p in row)
    expected = (-reinforce / 3, entropy / 3, (first + second) / 3)
    assert [term.item() for term in terms] == pytest.approx(expected, abs=1e-6)


def test_training_step_weighs_entropy_and_moves_baseline(decoder):
    """The same draw made again: b becomes 0.9 b + 0.1 log p(word)."""
    start = -math.log(8)
    assert decoder.baseline.item() == pytest.approx(start)
    much, none = (steps(decoder, 1, entropy=weight, reward=0.0)[0] for weight in (0.7, 0.0))
    slow, lengths = reference(decoder), torch.full((8,), 4)
    features, captions = one_image().expand(8, -1, -1), CAPTION.expand(8, -1)
    torch.manual_seed(0)
    places = decoder(features, captions, lengths).locations.argmax(2)
    logits, alphas = slow(features, captions, lengths, places)
    entropy = -(alphas * alphas.log()).sum() / 24
    found = dict(slow.named_parameters())
    parts = torch.autograd.grad(
        -0.7 * entropy,
        [found[name] for name in sorted(found.keys() - {NEVER_LEARNS})],
        materialize_grads=True,
    )
    expected = torch.cat([part.flatten() for part in parts])
    torch.testing.assert_close(much - none, expected, atol=1e-5, rtol=0)
    log_p = logits.log_softmax(2).gather(2, captions[:, 1:].unsqueeze(2)).mean().item()
    once = 0.9 * start + 0.1 * log_p
    assert decoder.baseline.item() == pytest.approx(0.9 * once + 0.1 * log_p, abs=1e-5)


def test_hard_attention_uses_expected_context_in_half_of_batches(decoder, monkeypatch):
    """And those learn as soft attention does, whatever the other terms weigh."""
    monkeypatch.setattr(decoder_module, "EXPECTED_SHARE", 1.0)
    soft = DecoderWithAttention(*SIZES, **OURS).train()
    weights = decoder.state_dict()
    weights.pop("baseline")
    soft.load_state_dict(weights)
    expected = steps(soft, 1)
    torch.testing.assert_close(steps(decoder, 1, entropy=9.0), expected)
    monkeypatch.undo()
    drawn = [
        decoder(one_image(), CAPTION, torch.tensor([4])).locations is not None for _ in range(1000)
    ]
    assert abs(sum(drawn) - 500) < 5 * 250**0.5  # five standard deviations
    decoder.eval()
    assert decoder(one_image(), CAPTION, torch.tensor([4])).locations is None


def test_hard_attention_gradients_equal_reference_at_same_locations(decoder):
    """Logits, maps and all gradients, the features' too, are the reference's at the same places."""
    random = torch.Generator().manual_seed(1)
    features = torch.randn(3, 5, 4, generator=random).requires_grad_()
    captions, lengths = torch.randint(8, (3, 6), generator=random), torch.tensor([4, 6, 2])
    output = decoder(features, captions, lengths)
    words = word_mask(lengths - 1, 5)
    assert torch.equal(output.locations.sum(2), words.float())
    slow = reference(decoder)
    logits, alphas = slow(features, captions, lengths, output.locations.argmax(2))
    torch.testing.assert_close(output.logits[words], logits[words], atol=1e-5, rtol=0)
    torch.testing.assert_close(output.alphas, alphas, atol=1e-5, rtol=0)
    some = torch.randn(3, 5, 8, generator=random), torch.randn(3, 5, 5, generator=random)
    one = (output.logits * some[0])[words].sum() + (output.alphas * some[1]).sum()
    other = (logits * some[0])[words].sum() + (alphas * some[1]).sum()
    expected = torch.autograd.grad(other, features, retain_graph=True)[0]
    found = torch.autograd.grad(one, features, retain_graph=True)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    found, expected = gradient(decoder, one), gradient(slow, other)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("unrolled", [False, True])
def test_sampled_attention_draws_regions_by_alpha(decoder, unrolled):
    decoder.eval().set_attention_mode("sampled")
    many, slow = 4000, reference(decoder)
    features, tokens = one_image().expand(many, -1, -1), CAPTION[:, 0].expand(many)
    hidden, cell = slow.initial(one_image())
    logits, alpha = [], slow.attend(one_image(), hidden)[1][0]
    for place in range(3):
        logits.append(slow.word(tokens[:1], one_image(), hidden, cell, torch.tensor([place]))[0])
    torch.manual_seed(3)
    if unrolled:
        two = torch.full((many,), 2)
        found = decoder(features, CAPTION[:, :2].expand(many, -1), two).logits[:, 0]
    else:
        found, _ = decoder.step(tokens, decoder.start(features))
    said = torch.cat(logits)  # (3, V), all different
    near = (found.unsqueeze(1) - said).abs().amax(2)  # (many, 3)
    assert near.amin(1).max() < 1e-5
    shares = near.argmin(1).bincount(minlength=3) / many
    error = (alpha * (1 - alpha) / many).sqrt()
    assert ((shares - alpha).abs() < 5 * error).all()
