"""Train a captioner on prepared files: sat-train --config flickr8k"""

from __future__ import annotations

import sys

from sat import torchrun
from sat.cli import cli_errors, parse_config
from sat.commands.train_help import DESCRIPTION, TrainHelpFormatter
from sat.config.training import TrainConfig


def parse(arguments: list[str]) -> TrainConfig:
    """The run that recipe and flags describe; flags win, wherever they stand."""
    how = {"description": DESCRIPTION, "formatter_class": TrainHelpFormatter}
    return parse_config(TrainConfig, arguments, **how)


@cli_errors()
def main(arguments: list[str] | None = None) -> None:
    config = parse(sys.argv[1:] if arguments is None else arguments)
    from sat.data.progress import progress_bar
    from sat.hub import check_pushable, push
    from sat.training.trainer import fit

    if config.push_to_hub is not None:
        check_pushable(config.push_to_hub)
    best = fit(config, progress_bar)
    print(f"best checkpoint: {best}")
    if config.push_to_hub and torchrun.rank() == 0:
        print(f"on the Hub: {push(best, config.push_to_hub)}")
