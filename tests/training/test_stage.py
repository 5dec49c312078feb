"""The order in which a stage shows the captions."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from conftest import Prepared

from sat.config.training import TrainConfig
from sat.data.dataloader import CaptionBatchSampler
from sat.data.dataset import CaptionDataset
from sat.training.stage import build_sampler


def test_build_sampler_seed_and_stage_shuffles_by_ten_times_seed_plus_stage(
    prepared: Callable[..., Prepared],
) -> None:
    """Runs must resume in the same order, and no two of seed and stage may share one."""
    data = prepared()
    train = CaptionDataset(data.folder, data.name, "train")
    orders = {}
    for seed, number in itertools.product((0, 1, 2), (1, 2)):
        config = TrainConfig(seed=seed, batches="random")
        size = config.stage(number).batch_size
        expected = CaptionBatchSampler(
            np.array(data.lengths), size, kind="random", seed=10 * seed + number
        )
        found = list(build_sampler(config, number, train))
        assert found == list(expected)
        orders[seed, number] = tuple(itertools.chain.from_iterable(found))
    assert len(set(orders.values())) == len(orders)
