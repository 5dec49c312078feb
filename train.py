"""Train a captioner on prepared files: python train.py --config configs/flickr8k.yaml"""

from __future__ import annotations

import dataclasses
import sys
import typing

from sat.cli import cli_errors
from sat.config.training import TrainConfig


def parse(arguments: list[str]) -> TrainConfig:
    """The run that recipe and flags describe; flags win, wherever they stand."""
    from jsonargparse import auto_cli, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    following, switches = [*arguments[1:], "--"], _switches(TrainConfig)
    flags = [
        f"{word}=true" if word in switches and after.startswith("--") else word
        for word, after in zip(arguments, following)
    ]
    recipe = [flag == "--config" or flag.startswith("--config=") for flag in flags]
    recipe = [is_flag or before == "--config" for is_flag, before in zip(recipe, ["", *flags])]
    order = sorted(range(len(flags)), key=lambda i: not recipe[i])
    ordered = [flags[i] for i in order]
    return auto_cli(TrainConfig, args=ordered, as_positional=False, allow_abbrev=False)


def _switches(cls: type, prefix: str = "--") -> set[str]:
    """The flags that may stand without a value, as in `--resume --seed 1`."""
    found = set()
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            found |= _switches(hint, f"{prefix}{name}.")
        elif hint is bool:
            found.add(prefix + name)
    return found


def main() -> None:
    config = parse(sys.argv[1:])
    from tqdm import tqdm

    from sat.checkpoints.hub import check_pushable, push
    from sat.training.trainer import fit

    if config.push_to_hub:
        check_pushable(config.push_to_hub)
    best = fit(config, tqdm)
    print(f"best checkpoint: {best}")
    if config.push_to_hub:
        print(f"on the Hub: {push(best, config.push_to_hub)}")


if __name__ == "__main__":
    with cli_errors():
        main()
