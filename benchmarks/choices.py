"""What each choice between the readings of the paper is worth: ours, one thing changed at a time.

    python -m benchmarks.choices --data_folder data/flickr8k --output_dir runs/choices [flags]

For every row runs `train.py` with the same flags (its own), budget and seed, then scores best/ on
the validation split at beam 3. Prints a Markdown table. A row finished before is not run again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

from sat.atomic_io import write_json
from sat.captioner import load
from sat.commands.train import parse
from sat.config.decoding import DecodingConfig
from sat.config.training import TrainConfig
from sat.evaluation import evaluate
from sat.training.feature_cache import with_features
from sat.training.initialization import open_data

CHOICES: dict[str, list[str]] = {
    "ours": [],
    "attention with ReLU (tutorial)": ["--decoder.activation", "relu"],
    "attention of depth 2 (authors' code)": ["--decoder.attention_depth", "2"],
    "scalar gate (paper)": ["--decoder.gate", "scalar"],
    "linear initial state (tutorial)": ["--decoder.initial_state", "linear"],
    "output from h alone (tutorial)": ["--decoder.output", "linear"],
    "penalty summed, weight 1 (paper)": ["--alpha_c", "1"],
    "penalty averaged, weight 1 (tutorial)": ["--alpha_c", "1", "--penalty_scaling", "mean"],
    "gradient clipped by element (tutorial)": ["--grad_clip_by", "value"],
    "hard attention (paper)": ["--decoder.attention", "hard"],
    "all of the tutorial's of these": [
        *("--decoder.activation", "relu", "--decoder.initial_state", "linear"),
        *("--decoder.output", "linear", "--alpha_c", "1", "--penalty_scaling", "mean"),
        *("--grad_clip_by", "value"),
    ],
    "ours, another seed": ["--seed", "1"],
    "grid pooled up to 14×14 (tutorial)": ["--encoder.encoded_image_size", "14"],
}
BEAM = 3


def main(flags: list[str]) -> None:
    """Run what is missing, and print the table."""
    scores = {}
    root = Path(parse(flags).output_dir)
    for i, (name, change) in enumerate(tqdm(CHOICES.items(), unit="training")):
        here = [*flags, "--output_dir", str(root / f"{i:02d}"), *change]
        found = root / f"{i:02d}" / "scores.json"
        if not found.exists():
            subprocess.run([sys.executable, "train.py", *here, "--overwrite"], check=True)
            write_json(found, score(parse(here)))
        scores[name] = json.loads(found.read_text(encoding="utf-8"))
    print(table(scores))


def score(config: TrainConfig) -> dict[str, float]:
    """The best model of a run on the validation split, from the features training has cached."""
    captioner = load(Path(config.output_dir, "best"))
    captioner.model.encoder.requires_grad_(False)
    _, val, _ = open_data(config)
    val = with_features(captioner, val, mirror=False, bar=tqdm)
    runs = [DecodingConfig(beam_size=BEAM)]
    (found,) = evaluate(captioner, val, runs, metrics=("bleu", "cider"))
    return found.scores


def table(scores: dict[str, dict[str, float]]) -> str:
    """BLEU-4 and CIDEr of each choice, times 100, and how far they are from ours."""
    names = ("Bleu_4", "CIDEr")
    lines = ["| reading | BLEU-4 | | CIDEr | |", "| --- | --- | --- | --- | --- |"]
    ours = scores["ours"]
    for choice, found in scores.items():
        cells = [
            f"{100 * found[name]:.1f} | {100 * (found[name] - ours[name]):+.1f}" for name in names
        ]
        lines.append(f"| {choice} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
