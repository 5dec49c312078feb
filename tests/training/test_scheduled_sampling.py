"""Scheduled sampling: the schedules against their formulas, the words shown against the model."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from steps import cross_entropy_objective, parts_and_loss
from torch import Tensor, nn

from sat.config.checks import from_dict, to_dict
from sat.config.objectives import ScheduledSamplingConfig
from sat.config.training import StageConfig, TrainConfig
from sat.data.dataloader import Batch
from sat.models.decoder import DecoderWithAttention
from sat.models.show_attend_tell import ShowAttendTell
from sat.training import trainer
from sat.training.objectives import cross_entropy
from sat.training.objectives.scheduled_sampling import sample_inputs

START, END, WORDS = 7, 8, 9


def captioner(scale: float, dropout: float = 0.0) -> ShowAttendTell:
    """The larger the scale, the surer it is of each word."""
    torch.manual_seed(5)
    decoder = DecoderWithAttention(5, 6, 7, WORDS, encoder_dim=4, dropout=dropout)
    for weight in decoder.parameters():
        nn.init.normal_(weight, std=0.8)
    with torch.no_grad():
        decoder.fc.weight.mul_(scale)
        decoder.fc.bias.mul_(scale)
    return ShowAttendTell(
        encoder=nn.Identity(), decoder=decoder, start_id=START, end_id=END, pad_id=0, unk_id=6
    ).train()


def batch(photos: int = 3, each: int = 1) -> Batch:
    random = torch.Generator().manual_seed(1)
    captions = torch.randint(1, 7, (photos * each, 6), generator=random)
    captions[:, 0] = START
    lengths = torch.tensor([6, 4, 5, 2, 6, 3][: photos * each])
    return Batch(
        torch.randn(photos, 5, 4, generator=random), captions, lengths, torch.arange(photos)
    )


@pytest.mark.parametrize("i", [0, 1, 7, 400, 10**6])
def test_the_schedules_are_bengios(i: int) -> None:
    """Section 2.4 of the paper."""
    none, linear = (
        ScheduledSamplingConfig(),
        ScheduledSamplingConfig("linear", k=0.9, c=0.002, least=0.25),
    )
    exponential = ScheduledSamplingConfig("exponential", k=0.995)
    sigmoid = ScheduledSamplingConfig("inverse_sigmoid", k=90.0)
    assert none.teacher_forcing_ratio(i) == 1
    assert linear.teacher_forcing_ratio(i) == max(0.25, 0.9 - 0.002 * i)
    assert exponential.teacher_forcing_ratio(i) == pytest.approx(0.995**i)
    expected = 90 / (90 + math.exp(i / 90)) if i < 1000 else 0
    assert sigmoid.teacher_forcing_ratio(i) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"schedule": "steep"},
            "schedule is 'steep': choose one of none, linear, exponential, inv",
        ),
        ({"least": 1.5}, "least is 1.5: give a number in"),
        ({"schedule": "linear", "k": 2.0}, "k is 2.0: linear begins at a probability"),
        ({"schedule": "linear"}, "c is 0.0: give linear a slope above 0"),
        ({"schedule": "exponential"}, "k is 1.0: exponential takes a number below 1"),
        ({"schedule": "inverse_sigmoid", "k": 0.5}, "k is 0.5: inverse_sigmoid takes 1 or more"),
    ],
)
def test_constants_that_cannot_work_get_a_sentence(values: dict, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        ScheduledSamplingConfig(**values)
    assert str(caught.value).startswith(sentence)


def test_it_is_a_field_of_a_stage_that_shows_words() -> None:
    schedule = ScheduledSamplingConfig("exponential", k=0.99)
    config = StageConfig(scheduled_sampling=schedule)
    assert from_dict(StageConfig, to_dict(config)) == config
    with pytest.raises(ValueError, match="schedule is 'exponential': the self-critical objective"):
        StageConfig(scheduled_sampling=schedule, objective="self_critical")


def learnt(model: ShowAttendTell, given: Batch, share: float) -> list[Tensor]:
    """The gradient of one step, after a fixed seed."""
    objective = cross_entropy_objective(model, TrainConfig(), teacher_forcing_ratio=share)
    torch.manual_seed(2)
    (part,), loss_of = parts_and_loss(objective, given)
    loss, _ = loss_of(part)
    weights = list(model.decoder.parameters())
    return list(torch.autograd.grad(loss, weights, materialize_grads=True))


def test_step_with_teacher_forcing_ratio_1_is_teacher_forcing() -> None:
    """Bit for bit, dropout's draws too."""
    model, given = captioner(1.0, dropout=0.5), batch()
    torch.manual_seed(2)
    output = model(given.images, given.captions, given.lengths)
    lengths = given.lengths - 1
    loss = cross_entropy.cross_entropy(output.logits, given.captions[:, 1:], lengths)
    loss = loss + 0.1 * cross_entropy.doubly_stochastic_penalty(output.alphas, lengths)
    expected = torch.autograd.grad(loss, list(model.decoder.parameters()), materialize_grads=True)
    for one, other in zip(learnt(model, given, 1.0), expected, strict=True):
        assert torch.equal(one, other)


def test_none_of_the_teachers_words_is_the_models_own_caption(monkeypatch) -> None:
    """A sure model says the same however it is drawn: that is shown, the truth is predicted."""
    model, given = captioner(1000.0, dropout=0.5), batch(2, each=3)
    photos = 3 * torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    given = given._replace(images=photos)
    monkeypatch.setattr(model.decoder.dropout, "p", 0.0)  # of the second pass
    images = given.images.repeat_interleave(3, 0)
    shown, state = given.captions.clone(), model.start(images)
    for t in range(1, 5):
        logits, state = model.step(shown[:, t - 1], state)
        best = logits.topk(2).values
        assert (best[:, 0] - best[:, 1]).min() > 20
        shown[:, t] = logits.argmax(1)
    assert not torch.equal(shown, given.captions)
    assert not torch.equal(shown[0, 1:5], shown[4, 1:5]), "the photos must matter"
    torch.manual_seed(2)
    found = sample_inputs(model, given.images, given.captions, 0.0)
    assert torch.equal(found, shown)
    assert model.training
    output = model(given.images, shown, given.lengths)
    lengths = given.lengths - 1
    loss = cross_entropy.cross_entropy(output.logits, given.captions[:, 1:], lengths)
    loss = loss + 0.1 * cross_entropy.doubly_stochastic_penalty(output.alphas, lengths)
    expected = torch.autograd.grad(loss, list(model.decoder.parameters()), materialize_grads=True)
    for one, other in zip(learnt(model, given, 0.0), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_own_words_are_drawn_as_likely_as_the_model_finds_them() -> None:
    """Given words of one's own before; and dropout is off, whatever is learnt with."""
    model, many = captioner(1.0, dropout=0.9), 20000
    photo, caption = batch().images[:1], batch().captions[:1, :4]
    torch.manual_seed(3)
    found = sample_inputs(
        model, photo.expand(many, -1, -1), caption.expand(many, -1), teacher_forcing_ratio=0.0
    )
    assert (found[:, [0, 3]] == caption[0, [0, 3]]).all()
    model.eval()
    first, state = model.step(caption[:, 0], model.start(photo))
    likely = first[0].softmax(0)
    for word in range(WORDS):  # the pairs that begin with it
        next_likely = model.step(torch.tensor([word]), state)[0][0].softmax(0)
        pairs = found[found[:, 1] == word][:, 2].bincount(minlength=WORDS) / many
        expected = likely[word] * next_likely
        error = (expected * (1 - expected) / many).sqrt()
        assert ((pairs - expected).abs() < 5 * error + 1e-4).all()


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_each_word_is_kept_with_its_probability_by_itself(share: float) -> None:
    model, many = captioner(1000.0), 20000
    photo, caption = batch().images[:1], torch.tensor([[START, 1, 1, 1, 1, END]])
    never = model.decoder.fc.bias
    with torch.no_grad():
        never[1] = -1e6  # so that a 1 was the teacher's
    torch.manual_seed(3)
    found = sample_inputs(model, photo.expand(many, -1, -1), caption.expand(many, -1), share)
    kept = (found[:, 1:5] == 1).float()
    assert (kept.mean(0) - share).abs().max() < 5 * (share * (1 - share) / many) ** 0.5
    together = kept[:, :3].prod(1).mean().item()
    assert together == pytest.approx(share**3, abs=5 * (share**3 / many) ** 0.5)


def test_a_stage_counts_its_own_batches(tmp_path, monkeypatch) -> None:
    seen, real = [], trainer.training_step

    def note(stage, batch, number, *rest):
        seen.append(stage.config.scheduled_sampling.teacher_forcing_ratio(number))
        return real(stage, batch, number, *rest)

    monkeypatch.setattr(trainer, "training_step", note)
    tiny.script(monkeypatch, [0.1, 0.2, 0.3])
    data = tiny.prepare(tmp_path / "data", known=2)  # three batches an epoch
    linear = {"scheduled_sampling": ScheduledSamplingConfig("linear", c=0.1)}
    stages = {"stages": (1, 2), "stage1": linear | {"epochs": 2}, "stage2": linear | {"epochs": 1}}
    trainer.fit(tiny.config(data, tmp_path / "run", **stages))
    assert seen == pytest.approx([1, 0.9, 0.8, 0.7, 0.6, 0.5, 1, 0.9, 0.8])


def test_scheduled_sampling_in_bfloat16_keeps_all_gradients() -> None:
    """The draw without gradients must not leave its cast weights to the pass that learns."""
    model, given = captioner(1.0), batch()
    config = TrainConfig(precision="bfloat16")
    objective = cross_entropy_objective(model, config, teacher_forcing_ratio=0.5)
    (part,), loss_of = parts_and_loss(objective, given)
    loss_of(part)[0].backward()
    without = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert not without
