"""A trainer.pt of another shape is one sentence with the file's name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from sat.training.state import TrainerState, fits_run

HERE = Path("run/last")


def test_from_dict_of_a_stored_state_restores_it() -> None:
    state = TrainerState(stage=1, lr_scale=0.8, totals={"seconds": 1.5, "batches": 3})
    assert TrainerState.from_dict(dataclasses.asdict(state)) == state
    assert TrainerState.from_dict({"scale": 0.5, "lines": 2}).lr_scale == 0.5


@pytest.mark.parametrize(
    "position",
    [None, {"nonsense": 1}, []],
)
def test_from_dict_of_nonsense_raises_one_sentence(position: Any) -> None:
    expected = r"^run.last does not fit this run \(.*start"
    with pytest.raises(ValueError, match=expected) as caught, fits_run(HERE):
        TrainerState.from_dict(position)
    assert "\n" not in str(caught.value)
