"""Draw a run's log: python -m benchmarks.curve LOG.jsonl CURVE.png"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

from matplotlib.figure import Figure


def main(log: str, picture: str) -> None:
    """Validation BLEU-1..4 by epoch, the stages one after another."""
    lines = [json.loads(line) for line in Path(log).read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    epochs = range(1, len(lines) + 1)
    for n in range(1, 5):
        values = [100 * line[f"Bleu_{n}"] for line in lines]
        axes.plot(epochs, values, marker=".", label=f"BLEU-{n}")
    for i, (before, after) in enumerate(itertools.pairwise(lines), 1):
        if before["stage"] != after["stage"]:
            axes.axvline(i + 0.5, color="grey", linestyle=":")
            axes.text(i + 0.6, 2, f"stage {after['stage']}", color="grey")
    axes.set(xlabel="epoch", ylabel="validation, beam 3", ylim=(0, None))
    axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.15), frameon=False)
    figure.savefig(picture, dpi=150)


if __name__ == "__main__":
    main(*sys.argv[1:])
