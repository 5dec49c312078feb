"""A trainer.pt of another shape is one sentence with the file's name."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sat.training.state import TrainerState, check_optimizer, fits_run

HERE = Path("run/last")


def test_from_dict_of_a_stored_state_restores_it() -> None:
    state = TrainerState(stage=1, lr_scale=0.8, totals={"seconds": 1.5, "batches": 3})
    assert TrainerState.from_dict(dataclasses.asdict(state)) == state
    assert TrainerState.from_dict({"scale": 0.5, "lines": 2}).lr_scale == 0.5


@pytest.mark.parametrize(
    "position",
    [
        None,
        {"nonsense": 1},
        {"epoch": -1},
        {"epoch": 1.5},
        {"epoch": True},
        {"batch": torch.ones(3)},
        {"best": math.nan},
        {"lr_scale": "fast"},
        {"lr_scale": math.inf},
        {"totals": []},
        {"totals": {"loss": math.nan}},
    ],
)
def test_from_dict_of_nonsense_raises_one_sentence(position: Any) -> None:
    expected = r"^run.last does not fit this run \(.*start"
    with pytest.raises(ValueError, match=expected) as caught, fits_run(HERE):
        TrainerState.from_dict(position)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: {**state, "exp_avg": torch.zeros(9)}, r"exp_avg is of shape \[9\]"),
        (lambda state: {**state, "exp_avg": None}, "exp_avg is None, no tensor"),
        (lambda state: {**state, "exp_avg": state["exp_avg"] * math.nan}, "exp_avg holds NaN"),
    ],
)
def test_check_optimizer_with_other_moments_raises(change: Any, sentence: str) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    check_optimizer(optimizer)
    saved = optimizer.state_dict()
    saved["state"][0] = change(saved["state"][0])
    optimizer.load_state_dict(saved)
    with pytest.raises(ValueError, match=sentence):
        check_optimizer(optimizer)
