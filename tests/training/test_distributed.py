"""Two and three real processes train and evaluate as one does, stop together and lose nothing."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import os
import signal
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import test_vit_gpt2_training
import tiny
import torch
import torch.distributed as dist
from ranks import end_of_ranks, new_store, run_ranks
from test_resume import assert_same, states
from torch.amp import GradScaler

from sat import distributed, torchrun
from sat.checkpoints import native
from sat.commands import prepare
from sat.config.decoding import DecodingConfig
from sat.config.training import TrainConfig
from sat.data.dataset import CaptionDataset
from sat.data.progress import quiet
from sat.distributed import process_group
from sat.evaluation import PointingGame, evaluate
from sat.tracking.logger import RunLogger
from sat.training import trainer
from sat.training.initialization import initial_captioner, open_data
from sat.training.objectives import cross_entropy
from sat.training.stage import build_stage, training_step
from sat.training.state import TrainerState
from sat.training.step_metrics import read_metrics
from sat.training.trainer import fit
from sat.training.validation import choose_decoding, validate

vit_data = test_vit_gpt2_training.data
TIMEOUT = 300.0
SOFT: dict[str, Any] = {"decoder": {"dropout": 0.0}}
TUNED = {"encoder_learning_rate": 1e-3, "learning_rate": 1e-3, "captions_per_sample": 2}
RECIPES: dict[str, dict[str, Any]] = {
    "cached, moving average": SOFT | {"cache_features": True, "stage1": {"ema": 0.9}},
    "fine-tuned, in parts": SOFT
    | {"stage1": TUNED | {"accumulate": 2}, "penalty_scaling": "mean", "grad_clip": 0.1},
    "fewer captions than ranks": SOFT | {"stage1": {"batch_size": 2}, "batches": "equal_length"},
    "hard attention": {"decoder": {"dropout": 0.5, "attention": "hard"}},
    "self-critical": SOFT | {"stage1": {"objective": "self_critical", "samples": 2}},
}
two_and_three = pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 3])
DRAWN = ("hard attention", "self-critical")
"""recipes whose losses depend on what each rank draws"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.prepare(tmp_path_factory.mktemp("data"), known=2)


def learn(config: TrainConfig, steps: int) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """The metrics of so many steps of stage 1 and the state that they leave."""
    torch.manual_seed(config.seed)
    train, val, vocabulary = open_data(config)
    captioner = initial_captioner(config, train, val, vocabulary)
    stage = build_stage(config, 1, captioner, train, val, TrainerState(), bar=quiet)
    metrics: list[dict[str, float]] = []
    captioner.model.train()
    for stage.sampler.epoch in itertools.count():
        for batch in stage.sampler.with_step_sizes(stage.loader):
            if len(metrics) == steps:
                state = tiny.weights(captioner.model)
                average = {} if stage.ema is None else tiny.weights(stage.ema)
                return metrics, {"weights": state, "average": average}
            number = len(metrics)
            made = training_step(stage, batch, number, config, GradScaler(enabled=False))
            metrics += read_metrics([made])
            if stage.ema is not None:
                stage.ema.update_parameters(captioner.model)
    raise AssertionError


def learn_all(configs: dict[str, TrainConfig]) -> dict[str, Any]:
    """Twenty steps of the first recipe, six of the others."""
    with process_group(TIMEOUT):
        first, *_ = configs
        return {name: learn(config, 20 if name == first else 6) for name, config in configs.items()}


@pytest.fixture(scope="module")
def configs(data, vit_data, tmp_path_factory) -> dict[str, TrainConfig]:
    folder = tmp_path_factory.mktemp("run")
    vit = test_vit_gpt2_training.recipe(vit_data, folder)
    found = {name: tiny.config(data, folder, **how) for name, how in RECIPES.items()}
    return found | {"vit_gpt2": dataclasses.replace(vit, stage1=vit.stage2)}


@pytest.fixture(scope="module")
def alone(configs) -> dict[str, Any]:
    return learn_all(configs)


@two_and_three
def test_ranks_learn_what_one_process_learns(configs, alone, ranks):
    first, *others = run_ranks(ranks, learn_all, configs)
    for name, (metrics, state) in first.items():
        for other in others:
            assert_same((metrics, state), other[name], name)  # all ranks alike
        assert all(math.isfinite(value) for line in metrics for value in line.values())
        if name not in DRAWN:
            for one, expected in zip(metrics, alone[name][0], strict=True):
                assert one == pytest.approx(expected, rel=1e-5, abs=1e-5), name
    baseline = "decoder.baseline"
    assert first["hard attention"][1]["weights"][baseline] != -math.log(len(tiny.CAPTIONS))


def score_all(config: TrainConfig) -> dict[str, Any]:
    """All that is said of a split: by validation, by evaluation, and of where attention looks."""
    with process_group(TIMEOUT):
        captioner = tiny.captioner()
        val = CaptionDataset(config.data_folder, tiny.NAME.format(1), "val")
        found: list[Any] = []
        scores = validate(captioner, val, config, on_results=found.extend)
        game = PointingGame(captioner, val.references(captioner.vocabulary))
        runs = [DecodingConfig(beam_size=2, max_length=8), DecodingConfig(do_sample=True)]
        evaluations = evaluate(captioner, val, runs, batch_size=5, on_batch=game.add)
        return {
            "validation": scores,
            "results": found,
            "evaluations": [dataclasses.asdict(one) for one in evaluations],
            "pointing": game.scores(),
            "chosen": choose_decoding(captioner, val, config),
        }


def cache(config: TrainConfig, folder: Path) -> bytes:
    """The bytes of the features of the training split, mirrored ones too."""
    config = dataclasses.replace(config, cache_dir=str(folder), mirror=True, cache_features=True)
    with process_group(TIMEOUT):
        learn(config, 1)
        (path,) = folder.glob("TRAIN_FEATURES_*")
        return path.read_bytes()


def evaluate_and_cache(config: TrainConfig, folder: Path) -> tuple[dict[str, Any], bytes]:
    return score_all(config), cache(config, folder)


@two_and_three
def test_ranks_score_and_cache_what_one_process_does(data, tmp_path, ranks):
    config = tiny.config(tiny.prepare(tmp_path / "one"), tmp_path, validation_batch_size=5)
    alone = evaluate_and_cache(config, tmp_path / "alone")
    for found in run_ranks(ranks, evaluate_and_cache, config, tmp_path / "together"):
        assert found[0] == alone[0]
        assert found[1] == alone[1]
    assert len(list((tmp_path / "together").iterdir())) == 2  # train and val, and nothing else


HOW: dict[str, Any] = {
    "decoder": {"dropout": 0.5},
    "stage1": {"epochs": 1, "ema": 0.5},
    "stage2": {"epochs": 1},
    "stages": (1, 2),
    "mirror": True,
    "ddp_timeout": TIMEOUT,
    "resume": "auto",
}


def fit_and_stop(config: TrainConfig, stops: dict[int, tuple[int, int]]) -> None:
    """A run in which rank r gets the signal `stops[r][1]` within its step `stops[r][0]`, from 0."""
    number, step = itertools.count(), trainer.training_step

    def watched(*args: Any) -> Any:
        at, which = stops.get(distributed.rank(), (-1, 0))
        if next(number) == at:
            os.kill(os.getpid(), which)
        return step(*args)

    trainer.training_step = watched
    fit(config)


def test_ranks_stop_together_and_go_on_bit_for_bit(data, tmp_path):
    """Stopped once, which ends the step after the signal, and killed, with a save each step."""
    run_ranks(3, fit, tiny.config(data, tmp_path / "whole", **HOW))
    config = tiny.config(data, tmp_path / "run", **HOW, save_minutes=0.0)
    ends = end_of_ranks(3, fit_and_stop, config, {1: (1, signal.SIGTERM)})
    assert [one.code for one in ends] == [128 + signal.SIGTERM] * 3
    assert "".join(one.stderr for one in ends).count("interrupted") == 1
    position = native.load_trainer(tmp_path / "run" / "last")["position"]
    assert (position["global_step"], position["totals"]["captions"]) == (3, 3 * 8)  # of all ranks
    ends = end_of_ranks(3, fit_and_stop, config, {2: (2, signal.SIGKILL)})
    assert [one.code for one in ends] == [1, 1, -signal.SIGKILL]
    errors = [line for one in ends for line in one.stderr.splitlines() if "error" in line]
    assert len(errors) == 1
    assert "lost another of the 3 ranks, which ended or was silent for 300 s" in errors[0]
    position = native.load_trainer(tmp_path / "run" / "last")["position"]
    assert position["global_step"] == 5
    run_ranks(3, fit, config)
    assert_same(states(tmp_path / "whole"), states(tmp_path / "run"))


def test_run_goes_on_with_another_number_of_ranks(data, tmp_path):
    """Its losses do: what is counted of captions may jump by the rounding of other sums."""
    how = HOW | {"decoder": {"dropout": 0.0}}
    fit(tiny.config(data, tmp_path / "whole", **how))
    config = tiny.config(data, tmp_path / "run", **how)
    both = dict.fromkeys(range(2), (1, signal.SIGINT))
    ends = end_of_ranks(2, fit_and_stop, config, both)
    assert [one.code for one in ends] == [128 + signal.SIGINT] * 2
    fit(config)
    names = ("stage", "epoch", "learning_rate", "cross_entropy", "penalty", "val_cross_entropy")
    for one, whole in zip(tiny.log(tmp_path / "run"), tiny.log(tmp_path / "whole"), strict=True):
        assert one.keys() == whole.keys()
        for name in names:
            assert one[name] == pytest.approx(whole[name], rel=1e-4, abs=1e-5), name


def fit_with_nan(config: TrainConfig) -> None:
    loss = cross_entropy.cross_entropy
    if distributed.torchrun.rank() == 1:
        cross_entropy.cross_entropy = lambda *args, **how: math.nan * loss(*args, **how)
    fit(config)


def test_nan_of_one_rank_stops_all_with_one_sentence(data, tmp_path):
    ends = end_of_ranks(2, fit_with_nan, tiny.config(data, tmp_path, **HOW))
    assert [one.code for one in ends] == [1, 1]
    said = "".join(one.stderr for one in ends)
    assert said.count("error: the loss is nan in stage 1, epoch 1, batch 1: lower the") == 1


def fit_silently(config: TrainConfig) -> None:
    """Rank 1 says nothing after its first step, until rank 0 has ended.

    Only then is rank 0 impatient: until they have met and made a step, both have all the time.
    """
    step, number = trainer.training_step, itertools.count()
    ended, init = Path(config.output_dir) / "ended", dist.init_process_group

    def checked(*args: Any, **how: Any) -> None:
        assert how["timeout"] == timedelta(seconds=config.ddp_timeout)
        init(*args, **how)

    def watched(*args: Any) -> Any:
        if next(number) == 0:
            return step(*args)
        if distributed.rank() == 1:
            while not ended.exists():
                time.sleep(0.1)
            os._exit(0)
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1))
        return step(*args)

    dist.init_process_group = checked
    trainer.training_step = watched
    try:
        fit(config)
    finally:
        ended.touch()


@pytest.mark.slow
def test_silent_rank_stops_the_others(data, tmp_path):
    config = tiny.config(data, tmp_path, **HOW)
    ends = end_of_ranks(2, fit_silently, config)
    assert [one.code for one in ends] == [1, 0], ends[0].stderr
    sentence = "rank 0 lost another of the 2 ranks, which ended or was silent for 300 s"
    assert sentence in ends[0].stderr


@pytest.mark.parametrize(
    "error",
    ["error in the callback: Application timeout caused pair closure", "[gloo/pair.cc:1] closed"],
)
def test_each_error_of_a_lost_rank_is_one_sentence(error):
    """Which of them it is depends on the moment."""
    sentence = "rank 0 lost another of the 1 ranks"
    with pytest.raises(ConnectionError, match=sentence), distributed.naming_lost_rank(3.0):
        raise RuntimeError(error)
    own = "a shape of its own"
    with pytest.raises(RuntimeError, match=own), distributed.naming_lost_rank(3.0):
        raise RuntimeError(own)


def test_error_of_rank_zero_is_everybody_s_and_said_once(data, tmp_path):
    config = tiny.config(data, tmp_path, **HOW | {"resume": False})
    (tmp_path / "log.jsonl").touch()
    ends = end_of_ranks(2, fit, config)
    assert [one.code for one in ends] == [1, 1]
    assert "".join(one.stderr for one in ends).count("holds a run already") == 1


def say_something() -> None:
    print("to stdout")
    logging.getLogger("sat").warning("a warning")
    print("to stderr", file=sys.stderr)


def test_only_rank_zero_speaks():
    first, second = end_of_ranks(2, say_something)
    assert "a warning" in first.stderr
    assert "to stderr" in first.stderr
    assert (second.code, second.stderr) == (0, "")


def test_only_rank_zero_has_a_tracker(data, tmp_path, monkeypatch):
    monkeypatch.setattr("sat.tracking.logger.rank", lambda: 1)
    config = tiny.config(data, tmp_path, tracker="tensorboard")
    with RunLogger(config, tmp_path, None, None) as run_logger:
        assert run_logger.tracker is None


def test_drifting_batch_norm_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr("sat.training.initialization.ranks", lambda: 2)
    config = tiny.config(data, tmp_path, encoder={"batch_norm": "drifts"})
    with pytest.raises(ValueError, match="batch_norm is 'drifts': its statistics would be those"):
        open_data(config)


def test_preparing_with_torchrun_is_refused(tmp_path, monkeypatch, capsys):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        prepare.main(["--dataset", "shapes", "--output_folder", str(tmp_path)])
    assert "error: torchrun started 2 processes, but the data are prepared by one" in (
        capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())


def draws(seed: int) -> list[float]:
    with process_group(TIMEOUT):
        found = []
        for apart in (False, True, True):
            distributed.seed_draws(seed, apart=apart)
            found.append(torch.rand(()).item())
        return found


def test_ranks_draw_alike_or_apart_and_again_the_same():
    first, second = run_ranks(2, draws, 5)
    assert first[0] == second[0]
    assert len({*first, *second}) == 3
    assert first[1] == first[2]


def seed_of_step(config: TrainConfig) -> int:
    with process_group(TIMEOUT):
        learn(config, 2)
        return torch.initial_seed()


def test_ranks_draw_dropout_apart_and_again_the_same(data, tmp_path):
    config = tiny.config(data, tmp_path)
    first, second = run_ranks(2, seed_of_step, config)
    assert first != second
    assert run_ranks(2, seed_of_step, config) == [first, second]


def fail_on_rank_zero() -> Any:
    with process_group(TIMEOUT):
        found = [distributed.on_rank_zero(distributed.rank), distributed.rank()]
        try:
            distributed.on_rank_zero(partial(open, "/no/such/file"))
        except FileNotFoundError as error:
            found.append(error.errno)
        return found


def test_on_rank_zero_gives_value_and_error_to_all():
    assert run_ranks(2, fail_on_rank_zero) == [[0, 0, 2], [0, 1, 2]]


def die_in_group(rank: int) -> None:
    with process_group(TIMEOUT):
        if distributed.rank() == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        distributed.barrier()


def sum_of_ranks(late: int) -> float:
    if torchrun.rank() == late:
        time.sleep(1.0)
    with process_group(TIMEOUT):
        return distributed.all_reduce_sum({"rank": float(distributed.rank())})["rank"]


@pytest.mark.parametrize("late", [0, 2])
def test_ranks_started_again_meet_one_another_and_not_what_the_dead_left(late):
    store = new_store()
    end_of_ranks(3, die_in_group, 1, store=store)
    assert run_ranks(3, sum_of_ranks, late, store=store) == [3.0] * 3
