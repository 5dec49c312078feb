"""The order in which captions are shown, and how much of a batch is padding."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sat.data.dataloader import Batch, CaptionBatchSampler, StepSize

LENGTHS = np.random.default_rng(0).integers(4, 40, 1003)


def flat(batches: CaptionBatchSampler) -> list[tuple[int, int]]:
    return [pair for batch in batches for pair in batch]


def padding(batches: CaptionBatchSampler) -> int:
    widths = [LENGTHS[[caption for caption, _ in batch]] for batch in batches]
    return sum(int(row.max() * len(row) - row.sum()) for row in widths)


@pytest.mark.parametrize("kind", ["by_length", "random"])
def test_sampler_epoch_holds_every_caption_once(kind: str) -> None:
    batches = CaptionBatchSampler(LENGTHS, 32, kind=kind)
    sizes = [len(batch) for batch in batches]
    assert len(batches) == len(sizes) == 32
    assert sorted(sizes) == [1003 % 32, *[32] * 31]
    assert sorted(caption for caption, _ in flat(batches)) == list(range(1003))


@pytest.mark.parametrize("kind", ["by_length", "equal_length", "random"])
def test_sampler_order_depends_on_seed_and_epoch(kind: str) -> None:
    def order(seed: int, epoch: int) -> list[tuple[int, int]]:
        batches = CaptionBatchSampler(LENGTHS, 32, kind=kind, mirror=True, seed=seed)
        batches.epoch = epoch
        return flat(batches)

    assert order(1, 5) == order(1, 5)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1, 2)}) == 6


@pytest.mark.parametrize("kind", ["by_length", "random"])
def test_sampler_with_start_skips_the_first_batches(kind: str) -> None:
    batches = CaptionBatchSampler(LENGTHS, 32, kind=kind, mirror=True, seed=4)
    batches.epoch = 3
    whole = list(batches)
    for start in (0, 1, 13, 31, 32):
        batches.start = start
        assert list(batches) == whole[start:]
        assert len(batches) == 32 - start


@pytest.mark.parametrize("size", [1, 8, 32, 2000])
def test_sampler_equal_length_leaves_one_short_batch_per_length(size: int) -> None:
    batches = CaptionBatchSampler(LENGTHS, size, kind="equal_length", seed=2)
    batches.epoch = 1
    found = list(batches)
    assert sorted(caption for batch in found for caption, _ in batch) == list(range(1003))
    short = [int(LENGTHS[batch[0][0]]) for batch in found if len(batch) < size]
    for batch in found:
        assert len({int(LENGTHS[caption]) for caption, _ in batch}) == 1
    expected = [n for n in range(4, 40) if (n == LENGTHS).sum() % size]
    assert sorted(short) == expected
    assert len(batches) == len(found)
    for start in (1, len(found)):
        batches.start = start
        assert (list(batches), len(batches)) == (found[start:], len(found) - start)


def test_sampler_by_length_has_little_padding() -> None:
    sorted_waste = padding(CaptionBatchSampler(LENGTHS, 32))
    random_waste = padding(CaptionBatchSampler(LENGTHS, 32, kind="random"))
    assert random_waste > 0.5 * LENGTHS.sum()
    assert sorted_waste < 0.05 * LENGTHS.sum()


@pytest.mark.parametrize("kind", ["by_length", "equal_length"])
def test_sampler_by_length_shuffles_the_batches(kind: str) -> None:
    batches = CaptionBatchSampler(LENGTHS, 8, kind=kind)
    means = [LENGTHS[[caption for caption, _ in batch]].mean() for batch in batches]
    steps = np.diff(means)
    assert len(steps) / 4 < (steps > 0).sum() < 3 * len(steps) / 4
    other = CaptionBatchSampler(LENGTHS, 8, kind=kind)
    other.epoch = 1
    batch, again = (next(b for b in x if 0 in [c for c, _ in b]) for x in (batches, other))
    assert {caption for caption, _ in batch} != {caption for caption, _ in again}


def test_sampler_with_mirror_flips_half_of_the_images() -> None:
    assert not any(view for _, view in flat(CaptionBatchSampler(LENGTHS, 32)))
    batches = CaptionBatchSampler(LENGTHS, 32, mirror=True)
    first = dict(flat(batches))
    assert set(first.values()) == {0, 1}
    assert abs(sum(first.values()) - 501.5) < 5 * np.sqrt(1003) / 2  # five standard deviations
    batches.epoch = 1
    changed = sum(first[caption] != view for caption, view in flat(batches))
    assert abs(changed - 501.5) < 5 * np.sqrt(1003) / 2


def test_sampler_with_group_size_keeps_captions_of_an_image_together() -> None:
    lengths = LENGTHS[:1000]
    batches = CaptionBatchSampler(lengths, 20, group_size=5, mirror=True, seed=2)
    found = list(batches)
    assert len(found) == len(batches) == 50
    assert sorted(caption for batch in found for caption, _ in batch) == list(range(1000))
    views = set()
    for batch in found:
        for i in range(0, 20, 5):
            captions, seen = zip(*batch[i : i + 5])
            assert captions == tuple(range(captions[0], captions[0] + 5))
            assert captions[0] % 5 == 0
            assert len(set(seen)) == 1
            views.add(seen[0])
    assert views == {0, 1}
    batches.start = 7
    assert list(batches) == found[7:]


@pytest.mark.parametrize("kind", ["by_length", "equal_length", "random"])
def test_sampler_repeats_captions_as_often_as_told(kind: str) -> None:
    repeats = np.arange(1003) % 3 + 1
    batches = CaptionBatchSampler(LENGTHS, 32, kind=kind, repeats=repeats)
    found = [caption for caption, _ in flat(batches)]
    assert np.bincount(found).tolist() == repeats.tolist()
    assert len(batches) == len(list(batches))


def test_sampler_repeats_whole_groups() -> None:
    repeats = np.repeat([1, 4, 2], 5)
    batches = CaptionBatchSampler(LENGTHS[:15], 10, group_size=5, repeats=repeats)
    found = [caption for caption, _ in flat(batches)]
    assert np.bincount(found).tolist() == repeats.tolist()
    strided = CaptionBatchSampler(LENGTHS[:15], 2, kind="random", stride=5, repeats=repeats)
    assert np.bincount([caption for caption, _ in flat(strided)], minlength=15).tolist() == [
        *(1, 0, 0, 0, 0, 4, 0, 0, 0, 0, 2, 0, 0, 0, 0)
    ]
    assert len(strided) == 4


def test_sampler_draws_one_caption_of_each_repeated_image() -> None:
    repeats = np.repeat([1, 3], 5)
    batches = CaptionBatchSampler(LENGTHS[:10], 2, stride=5, draw_one=True, repeats=repeats)
    found = [caption // 5 for caption, _ in flat(batches)]
    assert sorted(found) == [0, 1, 1, 1]


def shares(ranks: int, size: int, **how: object) -> list[CaptionBatchSampler]:
    return [CaptionBatchSampler(LENGTHS, size, share=(rank, ranks), **how) for rank in range(ranks)]


@pytest.mark.parametrize("how", [{}, {"kind": "equal_length"}, {"kind": "random", "mirror": True}])
@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_sampler_shares_make_up_the_batches_of_one_process(ranks: int, how: dict) -> None:
    whole = list(CaptionBatchSampler(LENGTHS, 32, **how))
    dealt = list(zip(*shares(ranks, 32, **how), strict=True))
    for step, parts in zip(whole, dealt, strict=True):
        real = parts[: len(step)]  # the first ranks have the captions of a short batch
        assert sorted(pair for part in real for pair in part) == sorted(step)
        assert max(map(len, real)) - min(map(len, real)) <= 1
        assert all(len(part) == 1 and part[0] in step for part in parts[len(step) :])


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_sampler_shares_have_words_and_longest_captions_nearly_equal(ranks: int) -> None:
    for parts in zip(*shares(ranks, 64, kind="random")):
        lengths = [LENGTHS[[caption for caption, _ in part]] for part in parts]
        if len(lengths[0]) == len(lengths[-1]):
            words, longest = ([int(f(row)) for row in lengths] for f in (np.sum, np.max))
            assert max(words) - min(words) <= 36  # the longest caption less the shortest
            assert max(longest) - min(longest) <= 36 / 2


def test_sampler_share_keeps_the_captions_of_an_image_together() -> None:
    parts = (
        CaptionBatchSampler(LENGTHS[:1000], 12, group_size=4, share=(rank, 3)) for rank in range(3)
    )
    found = [caption for part in parts for step in part for caption, _ in step]
    assert [one // 4 for one in found[::4]] == [one // 4 for one in found[3::4]]


def test_step_size_counts_the_captions_of_all_ranks_and_none_for_an_idle_one() -> None:
    lengths = np.array([5, 4, 3])  # one step of three captions: 9 words
    batch = Batch(None, None, None, None)  # type: ignore[arg-type]
    for rank, expected in enumerate([(9, 3)] * 3 + [(math.inf, math.inf)]):
        batches = CaptionBatchSampler(lengths, 3, share=(rank, 4))
        (found,) = batches.with_step_sizes([batch])
        assert found.step_size == StepSize(*expected)
