"""Train a captioner on prepared files: python train.py --config configs/flickr8k.yaml"""

from __future__ import annotations

import sys

from sat.cli import main_errors
from sat.config import TrainConfig


def parse(arguments: list[str]) -> TrainConfig:
    """The run that recipe and flags describe; flags win, wherever they stand."""
    from jsonargparse import auto_cli

    following = [*arguments[1:], "--"]
    flags = [
        f"{word}=true" if _is_switch(word, after) else word
        for word, after in zip(arguments, following)
    ]
    recipe = [flag == "--config" or flag.startswith("--config=") for flag in flags]
    recipe = [is_flag or before == "--config" for is_flag, before in zip(recipe, ["", *flags])]
    order = sorted(range(len(flags)), key=lambda i: not recipe[i])
    return auto_cli(TrainConfig, args=[flags[i] for i in order], as_positional=False)


def _is_switch(word: str, after: str) -> bool:
    """True for a flag without a value, as in `--resume --seed 1`."""
    alone = word.startswith("--") and after.startswith("--") and "=" not in word
    return alone and word not in ("--help", "--print_config")


def main() -> None:
    config = parse(sys.argv[1:])
    from tqdm import tqdm

    from sat.training import fit

    print(f"best checkpoint: {fit(config, tqdm)}")


if __name__ == "__main__":
    with main_errors():
        main()
