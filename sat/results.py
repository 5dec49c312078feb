"""Write the results of an evaluation: COCO results files, scores, and tables to paste.

A table has a row for each run, scores times 100, and a column for the length penalty where the
runs differ in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sat.atomic_io import atomic_write_text, write_json
from sat.config.checks import to_dict
from sat.config.decoding import DecodingConfig
from sat.evaluation import Evaluation

NOT_PERCENT = ("brevity_penalty", "gen_len")
"""scores that tables do not show times 100"""


def write_results(
    folder: Path,
    split: str,
    runs: Sequence[DecodingConfig],
    evaluations: Sequence[Evaluation],
    pointing: dict[str, float] | None = None,
    *,
    per_image: bool = False,
) -> None:
    """Write captions_SPLIT_beamK_results.json (COCO's layout) and ..._scores.json for each run.

    The scores of all runs go to table_SPLIT.csv and .tex too, and the result of the `pointing` game
    to pointing_SPLIT.json, with the options of its captions, those of the last run, under
    "decoding". With `per_image` the scores file holds each caption's own scores too, under
    "imgToEval".
    """
    if pointing is not None:
        decoding = {"decoding": to_dict(runs[-1])}
        write_json(folder / f"pointing_{split}.json", pointing | decoding)
    for options, evaluation in zip(runs, evaluations):
        stem = f"captions_{split}_beam{options.beam_size}"
        write_json(folder / f"{stem}_results.json", evaluation.results)
        scores: dict[str, Any] = evaluation.scores | {"tokenizer": evaluation.tokenizer}
        if per_image:
            lines = zip(evaluation.results, evaluation.per_image)
            scores["imgToEval"] = {str(line["image_id"]): line | each for line, each in lines}
        write_json(folder / f"{stem}_scores.json", scores)
    atomic_write_text(folder / f"table_{split}.csv", csv_table(runs, evaluations))
    atomic_write_text(folder / f"table_{split}.tex", latex_table(runs, evaluations))


def table(runs: Sequence[DecodingConfig], evaluations: Sequence[Evaluation]) -> str:
    """The table in Markdown."""
    heading, *rows = _cells(runs, evaluations)
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *rows))


def csv_table(runs: Sequence[DecodingConfig], evaluations: Sequence[Evaluation]) -> str:
    """The table as comma-separated values."""
    return "".join(f"{','.join(row)}\n" for row in _cells(runs, evaluations))


def latex_table(runs: Sequence[DecodingConfig], evaluations: Sequence[Evaluation]) -> str:
    """The table as a LaTeX tabular, which needs no package."""
    heading, *rows = [" & ".join(row) + r" \\" for row in _cells(runs, evaluations)]
    columns = "r" * (heading.count("&") + 1)
    lines = [rf"\begin{{tabular}}{{{columns}}}", heading, r"\hline", *rows, r"\end{tabular}"]
    return "\n".join(lines).replace("_", r"\_") + "\n"


def _cells(runs: Sequence[DecodingConfig], evaluations: Sequence[Evaluation]) -> list[list[str]]:
    names = list(evaluations[0].scores)
    penalized = len({options.length_penalty for options in runs}) > 1
    rows = [["beam", *["length_penalty"] * penalized, *names, "unfinished"]]
    for options, evaluation in zip(runs, evaluations):
        values = [
            f"{value:.3f}" if name in NOT_PERCENT else f"{100 * value:.1f}"
            for name, value in evaluation.scores.items()
        ]
        penalty = [f"{options.length_penalty:g}"] * penalized
        rows.append([str(options.beam_size), *penalty, *values, str(evaluation.unfinished)])
    return rows


def pointing_report(pointing: dict[str, float], runs: Sequence[DecodingConfig]) -> str:
    """The scores of a `PointingGame`, which got the captions of the last run, as one line."""
    return (
        f"all objects named in {pointing['all_named']:.0%} of the images with beam "
        f"{runs[-1].beam_size}; "
        f"attention at the {pointing['nouns']} nouns that name an object: peak in its box "
        f"{pointing['peak_inside']:.0%} (of a blob in the center {pointing['center_inside']:.0%}), "
        f"mass in its box {pointing['mass_inside']:.0%} (blob {pointing['center_mass']:.0%}, "
        f"flat map {pointing['chance']:.0%}); from word to word {pointing['movement']:.2f} of the "
        "mass moves"
    )
