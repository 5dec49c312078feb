"""A run that was stopped, however, and goes on ends bit for bit where it would have ended."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch.amp import GradScaler

from sat.checkpoints import native
from sat.config.checks import flatten
from sat.config.objectives import ScheduledSamplingConfig
from sat.config.training import TrainConfig
from sat.stop_signals import Stopped, stop_signals
from sat.training import step_metrics, trainer, validation
from sat.training.objectives import cross_entropy
from sat.training.optim import MovingAverage
from sat.training.run_folder import MAY_CHANGE, OF_THE_MODEL, log_lines
from sat.training.trainer import fit

HOW: dict[str, Any] = {
    "decoder": {"dropout": 0.5},
    "stage1": {"epochs": 3, "decay_patience": 1, "ema": 0.5},
    "stage2": {"epochs": 2, "decay_patience": 1, "ema": 0.5},
    "stages": (1, 2),
    "mirror": True,
}
STEPS = 15  # three epochs and two, of three batches
SCORES = [0.2, 0.1, 0.15, 0.12, 0.4]  # stage 2 starts from the first epoch and ends with the best
RATES = [1e-2, 1e-2, 8e-3, 1e-3, 8e-4]


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the run gets to hear of it."""


def score_by_list(patch: Callable[[Any, str, Any], None]) -> None:
    """Let validation, besides its own work, report the BLEU-4 that `SCORES` holds for the epoch.

    The log has a line for each epoch before it, so an epoch validated again after a resume gets
    the same score again.
    """
    validate = trainer.validate

    def scored(*args: Any) -> dict[str, float]:
        (config,) = (value for value in args if isinstance(value, TrainConfig))
        return validate(*args) | {"Bleu_4": SCORES[len(log_lines(Path(config.output_dir)))]}

    patch(trainer, "validate", scored)


@pytest.fixture(autouse=True, scope="module")
def _scores() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        score_by_list(patch.setattr)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.prepare(tmp_path_factory.mktemp("data"), known=2)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run leaves that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    fit(tiny.config(data, folder, **HOW))
    found = states(folder)
    assert [line["best"] for line in found["log"]] == [0.2, 0.2, 0.2, 0.2, 0.4]
    assert [line["learning_rate"] for line in found["log"]] == pytest.approx(RATES)
    return found


def states(folder: Path) -> dict[str, Any]:
    """All that two runs must have in common."""
    trainer = native.load_trainer(folder / "last")
    for name in ("seconds", "waiting"):
        trainer["position"]["totals"].pop(name, None)
    return {
        "best": tiny.weights(native.load(folder / "best")[0]),
        "last": tiny.weights(native.load(folder / "last")[0]),
        "scores": native.scores(folder / "best"),
        "log": tiny.log(folder),
        "trainer": trainer,
    }


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equality all the way down, naming the first place where it ends."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other)):
            assert_same(*pair, f"{where}/{i}")
    else:
        assert one == other, where


def count_steps(patch: pytest.MonkeyPatch) -> list[Any]:
    """A list that grows by one with each step that is made to its end."""
    made, learn = [], trainer.training_step

    def counted(*args: Any, **how: Any) -> Any:
        losses = learn(*args, **how)
        made.append(losses)
        return losses

    patch.setattr(trainer, "training_step", counted)
    return made


def stop(
    config: TrainConfig, place: tuple[Any, str], number: int, error: type[BaseException]
) -> int:
    """Run until a call of `place` with this number, from 0, is stopped; returns the steps made."""
    owner, name = place
    real, calls = getattr(owner, name), itertools.count()

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == number:
            if error is Killed:
                raise Killed
            signal.raise_signal(signal.SIGINT)
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, call)
        made = count_steps(patch)
        with pytest.raises(error):
            fit(config)
        return len(made)


def go_on(config: TrainConfig) -> int:
    """Resume to the end; returns the steps made."""
    with pytest.MonkeyPatch.context() as patch:
        made = count_steps(patch)
        fit(dataclasses.replace(config, resume=True))
        return len(made)


BATCH = (trainer, "training_step")
WITHIN = (cross_entropy, "cross_entropy")  # of a batch, when dropout has been drawn
STEPPED = (MovingAverage, "update_parameters")
CAPTIONING = (validation, "caption_dataset")
SAVING = (native, "save")  # last/, then best/, then last/ after each epoch, best/ where better


@pytest.mark.parametrize(
    ("place", "number"),
    [
        *[(BATCH, number) for number in (0, 5, 10)],
        *[(WITHIN, number) for number in (1, 3, 14)],
        (STEPPED, 4),
        *[(CAPTIONING, number) for number in (0, 3)],
        (SAVING, 1),
    ],
)
def test_ctrl_c_costs_nothing(data, whole, tmp_path, place, number):
    config = tiny.config(data, tmp_path, **HOW)
    made = stop(config, place, number, KeyboardInterrupt)
    assert go_on(config) == STEPS - made
    assert_same(whole, states(tmp_path))


@pytest.mark.parametrize(
    ("place", "number"),
    [(BATCH, 4), (BATCH, 13), *[(SAVING, number) for number in (0, 1, 2, 3, 4, 6, 7)]],
)
def test_a_killed_run_goes_on_from_the_last_save(data, whole, tmp_path, place, number):
    config = tiny.config(data, tmp_path, **HOW)
    stop(config, place, number, Killed)
    if native.exists(tmp_path / "last"):
        go_on(config)
    else:
        fit(dataclasses.replace(config, overwrite=True))
    assert_same(whole, states(tmp_path))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_saves_often_loses_one_batch(data, whole, tmp_path, workers):
    config = tiny.config(data, tmp_path, save_minutes=0.0, workers=workers, **HOW)
    assert stop(config, BATCH, 4, Killed) == 4
    assert go_on(config) == STEPS - 4
    assert_same(whole, states(tmp_path))


def test_what_is_drawn_goes_on_too(data, tmp_path):
    """Where hard attention looks, its baseline, and where the schedule of own words stands."""
    stage = HOW["stage1"] | {"scheduled_sampling": ScheduledSamplingConfig("linear", k=0.9, c=0.05)}
    how = HOW | {"decoder": {"attention": "hard"}, "stage1": stage}
    fit(tiny.config(data, tmp_path / "whole", **how))
    config = tiny.config(data, tmp_path / "stopped", **how)
    made = stop(config, BATCH, 4, KeyboardInterrupt)
    assert go_on(config) == STEPS - made
    assert_same(states(tmp_path / "whole"), states(tmp_path / "stopped"))


@pytest.mark.parametrize("error", [Killed, KeyboardInterrupt])
def test_a_run_stopped_within_the_parts_of_a_batch(data, tmp_path, error):
    """Every choice that has a state of its own; two lengths make four batches an epoch."""
    how = {
        "encoder": {"blocks": 2, "batch_norm": "drifts"},
        "stage1": {"epochs": 2, "accumulate": 2, "optimizer": "rmsprop", "learning_rate": 1e-3},
        "batches": "equal_length",
    }
    fit(tiny.config(data, tmp_path / "whole", **how))
    config = tiny.config(data, tmp_path / "run", save_minutes=0.0, **how)
    first_epoch, second_batch, second_part = 4 * 2, 2, 1
    made = stop(config, WITHIN, first_epoch + second_batch + second_part, error)
    assert made == (5 if error is Killed else 6)
    assert go_on(config) == 8 - made
    assert_same(states(tmp_path / "whole"), states(tmp_path / "run"))


def test_frozen_word_vectors_stay_frozen_when_resumed(data, tmp_path):
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("cat 1 2 3 4\ndog 5 6 7 8\n")
    how = {"embeddings": str(vectors), "fine_tune_embeddings": False}
    config = tiny.config(data, tmp_path / "run", **how)
    stop(config, BATCH, 4, Killed)
    go_on(config)
    model, vocabulary, model_config = native.load(tmp_path / "run" / "last")
    assert model_config.decoder.embed_dim == 4
    rows = [model.decoder.embedding.weight[vocabulary.word_map[word]] for word in ("cat", "dog")]
    assert torch.stack(rows).tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    other = dataclasses.replace(config, resume=True, fine_tune_embeddings=True)
    with pytest.raises(ValueError, match=r"fine_tune_embeddings is True, but .* False"):
        fit(other)


def run_and_die(data: str, folder: str) -> None:
    """In a process of its own: five steps, and then nothing any more."""
    torch.set_num_threads(1)
    score_by_list(setattr)
    learn, calls = trainer.training_step, itertools.count()

    def deadly(*args: Any, **how: Any) -> Any:
        if next(calls) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return learn(*args, **how)

    trainer.training_step = deadly
    fit(tiny.config(Path(data), Path(folder), save_minutes=0.0, workers=1, **HOW))


@pytest.mark.slow
def test_a_process_that_is_really_killed(data, whole, tmp_path):
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[1]), str(here.parent / "support")]
    code = f"import sys; sys.path[:0] = {paths}; import test_resume as t; "
    call = f"t.run_and_die({str(data)!r}, {str(tmp_path)!r})"
    process = subprocess.run([sys.executable, "-c", code + call], check=False)
    assert process.returncode == -signal.SIGKILL
    assert go_on(tiny.config(data, tmp_path, **HOW)) == STEPS - 5
    assert_same(whole, states(tmp_path))


def test_a_run_that_is_over_can_be_made_longer(data, whole, tmp_path):
    first = HOW | {"stage1": HOW["stage1"] | {"epochs": 2}, "stages": (1,)}
    fit(tiny.config(data, tmp_path, **first))
    assert go_on(tiny.config(data, tmp_path, **HOW)) == STEPS - 6
    assert_same(whole, states(tmp_path))


@pytest.mark.parametrize(
    ("stage", "why"),
    [
        ({"epochs": 2}, "stage 1 ended (all epochs done)"),
        ({"epochs": 99, "stop_patience": 2}, "stage 1 ended (2 without better)"),
    ],
)
def test_resuming_what_is_over_says_so(data, tmp_path, caplog, monkeypatch, stage, why):
    tiny.script(monkeypatch, [0.3, 0.1, 0.2])
    config = tiny.config(data, tmp_path, stage1=stage)
    fit(config)
    before = states(tmp_path)
    caplog.clear()
    with caplog.at_level("INFO", "sat.training.trainer"):
        assert go_on(config) == 0
    assert f"{why}, best validation BLEU-4 0.3000" in caplog.text
    assert_same(before, states(tmp_path))


def test_what_has_been_run_cannot_be_another_run_when_resumed(data, tmp_path):
    fit(tiny.config(data, tmp_path / "run", stage1={"epochs": 1}))
    for changes, message in (
        ({"stages": (2,)}, r"stages is \[2\], but .*: resume it as it was, or start another"),
        (
            {"stage1": {"epochs": 1, "learning_rate": 0.5}},
            r"stage1.learning_rate is 0.5, but the run in .*run has 0.01: resume it as it was, or "
            r"start another one, or name it if you mean it \(--resume_changed stage1.learning_rate",
        ),
        ({"alpha_c": 0.0, "resume_changed": ("seed",)}, "alpha_c is 0.0, but the run in .* 0.1"),
        ({"decoder": {"dropout": 0.1}, "resume_changed": ("decoder.dropout",)}, "another one$"),
        (
            {
                "stage1": {"epochs": 2, "optimizer": "rmsprop"},
                "resume_changed": ("stage1.optimizer",),
            },
            "stage1.optimizer is rmsprop, but the run in .* has adam: .*start another one$",
        ),
        ({"resume_changed": ("alpha_d",)}, "resume_changed is 'alpha_d': .*, try alpha_c$"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(tiny.config(data, tmp_path / "run", resume=True, **changes))


def test_settings_that_may_change_or_are_named_are_resumed_with(data, tmp_path):
    fit(tiny.config(data, tmp_path / "run", stage1={"epochs": 1}))
    changes = {"stage1": {"epochs": 2, "learning_rate": 0.5}, "log_every": 7, "save_minutes": 0.0}
    named = {"resume_changed": ("stage1.learning_rate",), "resume": True}
    fit(tiny.config(data, tmp_path / "run", **changes, **named))
    assert [line["learning_rate"] for line in tiny.log(tmp_path / "run")] == [0.01, 0.5]
    fit(tiny.config(data, tmp_path / "run", **changes, resume=True))  # it is the run's own now


def test_moving_average_may_begin_where_a_run_is_resumed(data, tmp_path, monkeypatch):
    fit(tiny.config(data, tmp_path / "run", stage1={"epochs": 1}))
    before = tiny.weights(native.load(tmp_path / "run" / "last")[0])
    seen, update = [], MovingAverage.update_parameters

    def watched(average: MovingAverage, model: torch.nn.Module) -> None:
        seen.append(tiny.weights(average.module))
        update(average, model)

    monkeypatch.setattr(MovingAverage, "update_parameters", watched)
    changes = {"stage1": {"epochs": 2, "ema": 0.9}, "resume_changed": ("stage1.ema",)}
    fit(tiny.config(data, tmp_path / "run", **changes, resume=True))
    assert len(seen) == 3
    assert tiny.equal(seen[0], before)


def test_every_setting_that_may_change_is_one():
    """A renamed field would leave its old name in the list, and be refused from then on."""
    known = {name.rpartition(".")[2] for name in flatten(TrainConfig())}
    assert known >= MAY_CHANGE
    assert {*OF_THE_MODEL} <= {name.partition(".")[0] for name in flatten(TrainConfig())}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_within_a_step_costs_nothing(data, whole, tmp_path, monkeypatch, number):
    config = tiny.config(data, tmp_path, **HOW)
    monkeypatch.setattr(signal, "SIGINT", number)  # what `stop` raises
    before = signal.signal(number, signal.SIG_DFL)  # nohup ignores SIGHUP
    with stop_signals():
        made = stop(config, WITHIN, 3, Stopped)
    assert signal.signal(number, before) == signal.SIG_DFL
    assert go_on(config) == STEPS - made
    assert_same(whole, states(tmp_path))


def test_two_signals_within_a_step_leave_the_state_that_was_saved_before(data, whole, tmp_path):
    """The second breaks the step off, when weights may have moved and are not counted."""
    config, calls = tiny.config(data, tmp_path, **HOW), itertools.count()
    learn = trainer.training_step

    def stopped(*args: Any) -> Any:
        metrics = learn(*args)
        if next(calls) == 4:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return metrics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "training_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            fit(config)
    go_on(config)
    assert_same(whole, states(tmp_path))


def test_a_signal_while_the_last_metrics_are_read_loses_no_step(data, whole, tmp_path):
    """As on a GPU, where they are read every `log_every` steps and at the epoch's end."""
    config, calls = tiny.config(data, tmp_path, **HOW), itertools.count()
    real = step_metrics.read_metrics

    def read(*args: Any) -> Any:
        if next(calls) == 0:
            signal.raise_signal(signal.SIGINT)
        return real(*args)

    run = trainer.Trainer(config)
    run.reads_each_step = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_metrics, "read_metrics", read)
        with pytest.raises(KeyboardInterrupt):
            run.run()
    assert native.load_trainer(tmp_path / "last")["position"]["batch"] == 3
    go_on(config)
    assert_same(whole, states(tmp_path))


def test_a_run_that_another_process_still_wrote_to_goes_on_from_its_last_state(
    data, whole, tmp_path
):
    """It read the weights before that process saved once more and left the lock."""
    config = tiny.config(data, tmp_path / "run", **HOW)
    stop(config, SAVING, 3, Killed)
    run = trainer.Trainer(dataclasses.replace(config, resume=True))
    other = tiny.config(data, shutil.copytree(tmp_path / "run", tmp_path / "other"), **HOW)
    stop(dataclasses.replace(other, resume=True), BATCH, 4, Killed)
    shutil.rmtree(tmp_path / "run")
    shutil.copytree(tmp_path / "other", tmp_path / "run")
    run.run()
    assert_same(whole, states(tmp_path / "run"))


def test_a_validation_that_was_stopped_draws_the_same_attention_again(data, tmp_path):
    how = HOW | {"decoder": {"attention": "hard", "test_attention": "sampled"}}
    fit(tiny.config(data, tmp_path / "whole", **how))
    config = tiny.config(data, tmp_path / "stopped", **how)
    stop(config, (validation, "score"), 1, KeyboardInterrupt)  # when all is captioned
    go_on(config)
    assert_same(states(tmp_path / "whole"), states(tmp_path / "stopped"))


def test_a_run_that_is_stopped_after_an_overflow_goes_on_and_its_log_is_finite(
    data, tmp_path, monkeypatch
):
    """As in float16: a step whose gradient overflows is left out, and the scale is lowered."""

    class Overflowing(GradScaler):
        def scale(self, loss: Any) -> Any:
            overflows = next(calls) == 1
            return super().scale(loss) * (math.inf if overflows else 1.0)

    calls = itertools.count()
    monkeypatch.setattr(trainer, "grad_scaler", lambda *_: Overflowing("cpu", init_scale=8.0))
    config = tiny.config(data, tmp_path, **HOW)
    stop(config, BATCH, 2, KeyboardInterrupt)
    assert native.load_trainer(tmp_path / "last")["scaler"]["scale"] == 4.0
    go_on(config)
    for line in tiny.log(tmp_path):
        assert all(math.isfinite(value) for value in line.values())


@pytest.mark.parametrize("place", [(SAVING, 0), (SAVING, 2), (BATCH, 0), (BATCH, 13)])
def test_resume_auto_starts_or_goes_on_at_every_moment(data, whole, tmp_path, place):
    config = tiny.config(data, tmp_path, **HOW | {"resume": "auto"})
    stop(config, *place, Killed)
    fit(config)
    assert_same(whole, states(tmp_path))


def test_resume_auto_of_a_later_stage_begins_it_and_goes_on_with_it(data, tmp_path):
    how = HOW | {"resume": "auto"}
    fit(tiny.config(data, tmp_path, **how | {"stages": (1,)}))
    config = tiny.config(data, tmp_path, **how | {"stages": (2,)})
    stop(config, BATCH, 2, Killed)
    fit(config)
    assert [line["stage"] for line in tiny.log(tmp_path)][-1] == 2


def test_overwrite_keeps_the_old_run_until_the_new_one_is_saved(data, tmp_path):
    fit(tiny.config(data, tmp_path, **HOW))
    before = states(tmp_path)
    stop(tiny.config(data, tmp_path, **HOW | {"overwrite": True}), SAVING, 0, Killed)
    assert_same(before, states(tmp_path))


def test_resume_with_other_data_is_refused(data, tmp_path):
    config = tiny.config(data, tmp_path / "run", stage1={"epochs": 1})
    fit(config)
    others = shutil.copytree(data, tmp_path / "others")
    (path,) = others.glob("MANIFEST_*")
    path.write_text(path.read_text().replace('"WORDMAP_', '"OTHERMAP_'))
    changed = dataclasses.replace(config, data_folder=str(others), resume=True)
    with pytest.raises(ValueError, match=r"fingerprint of the data is .*, but the run in"):
        fit(changed)
