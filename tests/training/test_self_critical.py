"""Self-critical training: the policy gradient against enumeration, and a model that it improves."""

import dataclasses
import itertools
from types import SimpleNamespace

import pytest
import tiny
import torch
from steps import parts_and_loss, self_critical_objective, step

from sat.config.decoding import DecodingConfig
from sat.config.training import StageConfig, TrainConfig
from sat.data.dataloader import Batch
from sat.metrics.cider import CiderD
from sat.models.decoder import DecoderWithAttention
from sat.models.show_attend_tell import ShowAttendTell
from sat.training.losses import policy_gradient
from sat.training.objectives import self_critical
from sat.training.objectives.self_critical import SelfCriticalObjective, reward_of
from sat.training.trainer import fit

PAD, UNK, START, END, WORDS = 0, 4, 5, 6, (1, 2, 3)
IMAGES = 128


class NoEncoder(torch.nn.Module):
    """Features come as they are."""


@pytest.fixture
def model():
    torch.manual_seed(0)
    decoder = DecoderWithAttention(5, 6, 7, 7, encoder_dim=4, dropout=0.5)
    return ShowAttendTell(
        encoder=NoEncoder(), decoder=decoder, start_id=START, end_id=END, pad_id=PAD, unk_id=UNK
    )


def every_caption():
    """All captions of at most two words, with their end, and those of three, cut off."""
    for n in range(3):
        yield from ([*line, END] for line in itertools.product(WORDS, repeat=n))
    yield from map(list, itertools.product(WORDS, repeat=3))


def log_p_of(model, features, lines):
    rows = [torch.tensor([START, *line]) for line in lines]
    lengths = torch.tensor([len(row) for row in rows])
    captions = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
    logits = model(features, captions, lengths).logits
    logits = logits.index_fill(2, torch.tensor([PAD, START, UNK]), float("-inf"))
    return captions, lengths, logits


def gradient(model, loss):
    weights = list(model.decoder.parameters())
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def test_its_mean_over_all_captions_is_the_gradient_of_the_expected_reward(model):
    model.eval()
    lines = list(every_caption())
    features = torch.randn(1, 3, 4)
    captions, lengths, logits = log_p_of(model, features, lines)
    log_p = torch.stack(
        [
            row.log_softmax(-1)[range(n - 1), caption[1:n]].sum()
            for row, caption, n in zip(logits, captions, lengths.tolist())
        ]
    )
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-5), "all captions, each once"
    rewards = torch.rand(len(lines))
    exact = gradient(model, -(log_p.exp() * rewards).sum())
    for baseline in (0.0, 0.7):  # moves the variance, not the mean
        weighted = log_p.exp().detach() * (rewards - baseline) * len(lines)
        captions, lengths, logits = log_p_of(model, features, lines)
        loss = policy_gradient(logits, captions[:, 1:], lengths - 1, weighted)
        torch.testing.assert_close(gradient(model, loss), exact, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("baseline", "parts"), [("leave_one_out", 1), ("greedy", 2)])
def test_steps_estimate_that_gradient_within_their_standard_error(
    model, monkeypatch, baseline, parts
):
    monkeypatch.setattr(
        self_critical, "DRAWING", dataclasses.replace(self_critical.DRAWING, max_length=3)
    )
    lines = list(every_caption())
    scores = {tuple(line): float(i % 5) for i, line in enumerate(lines)}
    reward = SimpleNamespace(score=lambda image, words: scores[tuple(words)])
    features = torch.randn(1, 3, 4)
    model.eval()
    captions, lengths, logits = log_p_of(model, features, lines)
    log_p = logits.log_softmax(-1).gather(2, captions[:, 1:].unsqueeze(2)).squeeze(2)
    log_p = log_p.masked_fill(torch.arange(log_p.shape[1]) >= lengths.unsqueeze(1) - 1, 0).sum(1)
    rewards = torch.tensor([scores[tuple(line)] for line in lines])
    exact = gradient(model, -(log_p.exp() * rewards).sum())
    seen = []
    captions = torch.zeros(IMAGES, 2)
    batch = Batch(features.expand(IMAGES, 3, 4), captions, captions[:, 0], torch.zeros(IMAGES))
    torch.manual_seed(1)
    objective = self_critical_objective(model, reward, samples=8, baseline=baseline)
    for _ in range(100):
        split, loss = parts_and_loss(objective, batch, parts)
        seen.append(gradient(model, sum(loss(part)[0] for part in split)))
    seen = torch.stack(seen)
    error = seen.std(0) / len(seen) ** 0.5
    far = (seen.mean(0) - exact).abs() / error.clamp(min=1e-9)
    # about one if they agree; 5 errors, if all weights went together, as few captions move them
    assert far[exact.abs() > 1e-6].square().mean().item() < 5**2


@pytest.mark.parametrize("baseline", ["leave_one_out", "greedy"])
def test_captions_drawn_are_no_longer_than_those_of_validation(model, baseline):
    """A decoder of few positions has none for 22 words."""
    asked = []
    reward = SimpleNamespace(score=lambda image, words: asked.append(words) or 0.0)
    config = TrainConfig(validation=DecodingConfig(beam_size=1, max_length=4))
    with torch.no_grad():
        model.decoder.fc.bias[END] -= 100
    stage = StageConfig(samples=2, baseline=baseline)
    objective = SelfCriticalObjective(model, config, stage, reward)
    features = torch.randn(2, 3, 4)
    objective.expected_loss(features, Batch(features, None, None, torch.tensor([7, 9])))
    assert {len(words) for words in asked} == {4}


def test_each_caption_is_judged_by_what_the_model_says_without_drawing(model, monkeypatch):
    """Worked out from the rewards that were asked for: the draws, then the greedy caption.

    In double precision: no rounding makes another word the likeliest.
    """
    asked, advantages = [], []
    model.double()

    def score(image, words):
        asked.append((image, tuple(words), float(len(asked) ** 2)))
        return asked[-1][2]

    def note(logits, drawn, lengths, found):
        advantages.append(found)
        return policy_gradient(logits, drawn, lengths, found)

    monkeypatch.setattr(self_critical, "policy_gradient", note)
    monkeypatch.setattr(model, "encode_cached", lambda cached: cached)
    features = torch.randn(2, 3, 4).double()
    batch = Batch(features, None, torch.tensor([3, 3]), torch.tensor([7, 9]))
    optimizer = torch.optim.SGD(model.decoder.parameters(), 0.0)
    reward = SimpleNamespace(score=score)
    step(self_critical_objective(model, reward, samples=3, baseline="greedy"), optimizer, batch)
    assert [image for image, _, _ in asked] == [7, 7, 7, 9, 9, 9, 7, 9]
    for photo, (_, words, _) in zip(features, asked[6:]):
        state, said = model.start(photo[None]), [START]
        while len(said) <= 22 and said[-1] != END:
            logits, state = model.step(torch.tensor(said[-1:]), state)
            logits[0, [PAD, START, UNK]] = -torch.inf
            said.append(int(logits.argmax()))
        assert tuple(said[1:]) == words
    expected = [reward - asked[6 + i // 3][2] for i, (_, _, reward) in enumerate(asked[:6])]
    assert advantages[0].tolist() == expected


def test_training_raises_the_reward(model):
    """2.9 to 5.6 times the first steps' reward, under twenty seeds of weights and draws."""
    torch.manual_seed(0)
    reward = CiderD([[[1, 2, 3, END]], [[3, 1, END]]])
    features = torch.randn(2, 3, 4)
    optimizer = torch.optim.Adam(model.decoder.parameters(), 0.02)
    batch = Batch(features, None, torch.tensor([3, 3]), torch.tensor([0, 1]))
    objective = self_critical_objective(model, reward, samples=10)
    rewards = [step(objective, optimizer, batch) for _ in range(60)]
    values = [each["reward"] for each in rewards]
    assert sum(values[-10:]) > 1.5 * sum(values[:10]) > 0


def test_references_are_the_captions_with_their_end():
    captions = torch.tensor([[START, 1, END, 0], [START, 2, 1, END], [START, 3, END, 0]]).numpy()
    lengths = torch.tensor([3, 4, 3]).numpy()
    dataset = SimpleNamespace(
        captions=captions, lengths=lengths, num_images=3, captions_per_image=1
    )
    scorer = reward_of(dataset)
    assert scorer.score(1, [2, 1, END]) == pytest.approx(
        10 * 3 / 4
    )  # three orders of n-grams match
    assert scorer.score(0, [2, 1, END]) < scorer.score(1, [2, 1, END])


def test_drawn_words_that_name_objects_are_looked_at(model):
    """With no reward at all, what is left is the loss of the boxes, for the captions drawn."""
    asked = []

    class Boxes:
        def loss(self, alphas, batch):
            asked.append((alphas, batch))
            return alphas[..., 0].sum()

    reward = SimpleNamespace(score=lambda image, words: 0.0)
    config = TrainConfig(box_weight=3.0)
    objective = SelfCriticalObjective(model, config, StageConfig(samples=2), reward, Boxes())
    batch = Batch(torch.randn(2, 3, 4), None, None, torch.tensor([7, 9]), torch.tensor([0, 1]))
    loss, _ = objective.expected_loss(batch.images, batch)
    [(alphas, drawn)] = asked
    assert drawn.captions.shape[0] == 4
    assert (drawn.captions[:, 0] == START).all()
    assert drawn.indices.tolist() == [7, 9]
    assert drawn.views.tolist() == [0, 1]
    assert loss.item() == pytest.approx(3 * alphas[..., 0].sum().item() / 4)


def test_sampled_attention_is_refused_before_training(tmp_path):
    """The regions of a caption drawn would be others than those that its words learn from."""
    data = tiny.prepare(tmp_path / "data")
    sampled = {"decoder": {"test_attention": "sampled"}, "stages": (1, 3)}
    with pytest.raises(ValueError, match=r"decoder.test_attention is 'sampled': self-cr"):
        fit(tiny.config(data, tmp_path / "run", **sampled))
    assert not (tmp_path / "run").exists()
