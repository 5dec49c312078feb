"""All commands behind one name: python -m sat caption --img a.jpg"""

from __future__ import annotations

import importlib
import sys
from functools import partial

from sat import torchrun
from sat.stop_signals import exit_code, stop_signals

COMMANDS = {
    "prepare": ("sat.commands.prepare", "prepare images and captions for training"),
    "train": ("sat.commands.train", "train a captioner on prepared files"),
    "eval": ("sat.commands.evaluate", "caption a split and score the captions"),
    "caption": ("sat.commands.caption", "caption images and see where the model looked"),
    "web": ("sat.commands.web", "caption images on a page in the browser"),
    "export": ("sat.commands.export", "write a captioner as ONNX files"),
}


def main() -> None:
    """Run the command that the first argument names with the arguments after it."""
    name, arguments = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if name not in COMMANDS:
        asked = name in ("-h", "--help")
        lines = [f"  {name:8} {summary}" for name, (_, summary) in COMMANDS.items()]
        usage = "\n".join(
            ["usage: python -m sat COMMAND [flags]; COMMAND --help lists them", *lines]
        )
        print(usage, file=sys.stdout if asked else sys.stderr)
        raise SystemExit(0 if asked else 2)
    sys.argv[0] = f"python -m sat {name}"  # what --help and errors call the command
    run(name, arguments)


def run(name: str, arguments: list[str] | None = None) -> None:
    """Run a command; a stop ends it in one word, in the seconds of its imports too."""
    try:
        with stop_signals():
            importlib.import_module(COMMANDS[name][0]).main(arguments)
    except KeyboardInterrupt as stop:
        if torchrun.rank() == 0:
            print("interrupted", file=sys.stderr)
        raise SystemExit(exit_code(stop)) from None


prepare, train, evaluate, caption, web, export = (partial(run, name) for name in COMMANDS)
"""what the console scripts call"""

if __name__ == "__main__":
    main()
