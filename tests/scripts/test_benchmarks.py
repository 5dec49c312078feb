"""The benchmarks count rightly, measure what they say, and run. No time is asserted here."""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import choices, ddp, decode, floor, gpu, growth, measure, pair, train_step
from benchmarks.gpu_setting import ERROR, table, tried
from sat.commands.train import parse
from sat.config.training import TrainConfig

ROOT = Path(__file__).parents[2]
OTHERS = ("decode", "vit_gpt2", "evaluate", "prepare", "loader", "startup")
SCRIPTS = ["train_step", *(pytest.param(name, marks=pytest.mark.stress) for name in OTHERS)]
CPU = torch.device("cpu")
SIZES = pair.SMALL._replace(regions=9, cells=9)
READINGS = {"tutorial": pair.TUTORIAL, "ours": pair.OURS}

each_reading = pytest.mark.parametrize("reading", READINGS.values(), ids=READINGS)


def allocate(megabytes: int) -> partial:
    """A call that needs so much memory, while that of building it is not counted."""
    held = torch.ones(25 * 10**6)
    return partial(lambda held: len(torch.ones(megabytes * 250_000)), held)


@each_reading
def test_operations_of_a_training_step_are_those_that_torch_counts(reading: dict) -> None:
    sizes = SIZES._replace(deep=reading["output"] == "deep")
    decoder = pair.decoder(pair.ReferenceDecoder, sizes, reading)
    captions = torch.tensor([[58, 4, 0]])
    features = pair.random_features(1, sizes, CPU)
    with FlopCounterMode(display=False) as counter:
        logits, alphas = decoder(features, captions, torch.tensor([2]))
        (logits.sum() + alphas.square().sum()).backward()
    *phases, _ = floor.training_step(sizes, images=1, words=1, steps=1)
    scores, sums = sizes.regions * sizes.attention, sizes.regions * sizes.features
    # torch counts matrix products alone: of the scores one of ten, thrice; no weighted sums
    counted = counter.get_total_flops() + (10 - 3 * 2) * scores + 2 * 2 * sums
    assert sum(phase.flops for phase in phases) == counted


@each_reading
def test_operations_of_a_search_are_those_that_torch_counts(reading: dict) -> None:
    sizes = SIZES._replace(deep=reading["output"] == "deep")
    decoder = pair.decoder(pair.ReferenceDecoder, sizes, reading).eval()
    features = pair.random_features(1, sizes, CPU)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hidden, cell = decoder.initial(features)
        decoder.word(torch.tensor([58]), features, hidden, cell)
    scores, sums = sizes.regions * sizes.attention, sizes.regions * sizes.features
    counted = counter.get_total_flops() + (4 - 2) * scores + 2 * sums
    assert sum(phase.flops for phase in floor.search(sizes, [[1]])) == counted


@each_reading
def test_parameters_are_counted(reading: dict) -> None:
    sizes = SIZES._replace(deep=reading["output"] == "deep")
    decoder = pair.decoder(pair.ReferenceDecoder, sizes, reading)
    weights = [weight for name, weight in decoder.named_parameters() if "bias" not in name]
    score = sizes.attention  # full_att, which the count leaves out with the biases
    assert sizes.parameters == sum(weight.numel() for weight in weights) - score


def test_a_phase_takes_the_longer_of_its_floors() -> None:
    peaks = measure.Peaks(flops=10.0, half_flops=20.0, bandwidth=2.0)
    phases = [floor.Phase("computes", 50.0, 4.0), floor.Phase("reads", 5.0, 6.0)]
    assert floor.floor(phases, peaks) == 5.0 + 3.0


def test_calls_are_made_in_turn_and_their_own_times_count() -> None:
    made: list[str] = []

    def call(name: str, seconds: list[float]) -> float:
        made.append(name)
        return seconds.pop(0)

    calls = [partial(call, "a", [9.0, 1.0, 3.0, 2.0]), partial(call, "b", [9.0, 4.0, 4.0, 4.0])]
    assert measure.in_turn(calls, 3, CPU) == [(2.0, 1.0, 3.0), (4.0, 4.0, 4.0)]
    assert made == ["a", "b"] * 4  # the first of each warms up


def test_quartiles() -> None:
    assert measure.timing([5.0, 1.0, 2.0, 4.0, 3.0]) == (3.0, 2.0, 4.0)


def test_peak_memory_of_larger_call_grows_by_what_it_allocates() -> None:
    """The difference of two calls: what a process's first call loads itself falls out of it."""
    small, large = (measure.in_a_process(allocate, megabytes) for megabytes in (64, 192))
    assert (small.result, large.result) == (64 * 250_000, 192 * 250_000)
    if small.peak is None:
        pytest.skip("the system does not tell a process's memory")
    assert large.peak - small.peak == pytest.approx(128e6, abs=16e6)


def test_a_failure_elsewhere_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="failed in a process of its own"):
        measure.peak_memory(allocate, "many")  # type: ignore[arg-type]
    assert "TypeError" in capfd.readouterr().err


def test_units() -> None:
    given = (1234.0, 1.5, 0.0123, 4.56e-5, 1e-9)
    assert [measure.seconds(value) for value in given] == [
        *("1234 s", "1.5 s", "12.3 ms", "45.6 µs", "0.001 µs"),
    ]


def test_another_mathematics_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    row = train_step.ROWS[0]
    assert "apart by" in train_step.agreement(row, 3, True, CPU)
    right = train_step.reference_step
    monkeypatch.setattr(
        train_step,
        "reference_step",
        lambda sizes, device, reading: right(sizes, device, reading | {"activation": "tanh"}),
    )
    with pytest.raises(RuntimeError, match="a benchmark of something wrong"):
        train_step.agreement(row, 3, True, CPU)


def test_compare_captions_of_other_words_raises_runtime_error() -> None:
    with pytest.raises(RuntimeError, match="1 captions differ"):
        decode.compare_captions("row", [([1, 2], 0.0), ([3], 0.0)], [([1, 2], 0.5), ([4], 0.0)])


@each_reading
def test_end_of_a_taught_decoder_counts_the_words_of_any_caption(reading: dict) -> None:
    """Its logit is the same of all images and words, and three spreads between words 9 and 10."""
    sizes = SIZES._replace(deep=reading["output"] == "deep")
    ours = decode.decoder(pair.DecoderWithAttention, sizes, reading, CPU)
    words = torch.randint(1, 57, (14, 16), generator=torch.Generator().manual_seed(0))
    state, logits = ours.start(pair.random_features(16, sizes, CPU)), []
    with torch.no_grad():
        for tokens in words:
            found, state = ours.step(tokens, state)
            logits.append(found)
    *others, end = torch.stack(logits)[..., 1:].unbind(2)
    torch.testing.assert_close(end, end[:, :1].expand(-1, 16), rtol=0, atol=1e-4)
    assert (end.diff(dim=0) > 0.3).all()
    assert end[8, 0] + 0.3 < 9 < end[9, 0] - 0.3
    assert 1 < torch.stack(others[:-1]).std() < 5  # the spread is 3; the last of them is <start>


@each_reading
def test_random_captions_end_as_they_were_taught(reading: dict) -> None:
    """With 5 to 11 words, at least 7 of them distinct, under sixty seeds of the weights."""
    sizes = SIZES._replace(deep=reading["output"] == "deep")
    ours = decode.decoder(pair.DecoderWithAttention, sizes, reading, CPU)
    found = decode.together(ours, pair.random_features(16, sizes, CPU), 3, 16)
    lengths = [len(words) for words, _ in found]
    assert min(lengths) > 2
    assert max(lengths) < 20
    assert len({tuple(words) for words, _ in found}) > 4


def test_step_on_paper_sends_the_gradients_around_a_ring() -> None:
    assert ddp.on_paper(1, 0.03, 1e9, 1e9) == 0.03
    assert ddp.on_paper(4, 0.03, 1e9, 1e9) == pytest.approx(0.03 + 1.5 * (1 - ddp.HIDDEN))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_each_prints_its_table(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{script}", "--quick", "--threads", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("## ")
    (start, *_) = (i for i, line in enumerate(lines) if "| ratio |" in line)
    column = [cell.strip() for cell in lines[start].split("|")].index("ratio")
    rows = [line for line in lines[start + 2 :] if line.startswith("| ")]
    ratios = [line.split("|")[column].strip() for line in rows[:2]]
    assert len(ratios) == 2
    for ratio in ratios:
        assert re.fullmatch(r"[\d.]+×", ratio)
        assert math.isfinite(float(ratio[:-1]))


@pytest.mark.slow
@pytest.mark.stress
def test_growth_prints_a_slope_for_each_line_and_draws_them(tmp_path: Path) -> None:
    arguments = ["--quick", "--threads", "1", "--picture", str(tmp_path / "growth.png")]
    command = [sys.executable, "-m", "benchmarks.growth", *arguments]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rows = [
        line.split("|") for line in printed.splitlines() if re.match(r"\| (training|search)", line)
    ]
    assert len(rows) == len(growth.POINTS)
    assert all(math.isfinite(float(row[4])) for row in rows)
    assert (tmp_path / "growth.png").stat().st_size > 10_000


def test_slope_is_the_exponent_between_the_last_two_points() -> None:
    points = [growth.Point(1, 5.0, None), growth.Point(10, 2.0, None), growth.Point(20, 8.0, None)]
    assert growth.slope(points) == pytest.approx(2.0)


@pytest.mark.parametrize("name", [name for name in choices.CHOICES if name != "ours"])
def test_each_choice_is_a_recipe_of_its_own(name: str) -> None:
    assert parse(choices.CHOICES[name]) != TrainConfig()


def test_choices_are_told_as_differences_to_ours() -> None:
    found = choices.table(
        {"ours": {"Bleu_4": 0.2, "CIDEr": 0.5}, "other": {"Bleu_4": 0.21, "CIDEr": 0.46}}
    )
    assert found.splitlines()[2:] == [
        "| ours | 20.0 | +0.0 | 50.0 | +0.0 |",
        "| other | 21.0 | +1.0 | 46.0 | -4.0 |",
    ]


@pytest.mark.slow
@pytest.mark.stress
def test_gpu_benchmark_tried_on_cpu_fills_every_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.gpu", "--quick", "--device", "cpu"),
            *("--threads", "1", "--output", page),
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    heading, *sections = page.read_text("utf-8").split("\n## ")
    assert heading.startswith("# Results on a GPU")
    titles = [section.partition("\n")[0] for section in sections]
    assert titles == [section.title for section in gpu.SECTIONS.values()]
    for section in sections:
        assert ERROR not in section
        assert measure.NOT_MEASURED + ": no time" not in section
        rows = section.partition("| --- |")[2].splitlines()[1:]
        assert rows[0].startswith("| "), section
    assert "**no**" not in sections[0]  # parity of the CPU with itself


def test_failing_row_of_gpu_benchmark_is_told_and_the_others_stay(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def rows(good: int) -> Iterator[list[int]]:
        yield from ([i, i * i, i**3] for i in range(good))
        raise ValueError("no | room\nsecond line")

    lines = list(table(("a", "b", "c"), tried("cubes", 3, rows, 2)))
    assert lines[1:] == [
        "| 0 | 0 | 0 |",
        "| 1 | 1 | 1 |",
        f"| cubes | {ERROR}: ValueError: no / room |  |",
    ]
    assert "second line" in capsys.readouterr().err


def test_section_of_gpu_benchmark_that_fails_keeps_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\necho '| kept |'\necho out of memory >&2\nexit 3\n")
    failing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(failing))
    found = gpu.run("stage1", argparse.Namespace(threads=1, quick=True), CPU, 60)
    assert "| kept |" in found
    assert f"{ERROR}: the section ended with code 3.\n\n```\nout of memory\n```" in found
