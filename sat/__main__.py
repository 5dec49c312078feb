"""All commands behind one name: python -m sat caption --img a.jpg"""

from __future__ import annotations

import importlib
import sys

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
    importlib.import_module(COMMANDS[name][0]).main(arguments)


if __name__ == "__main__":
    main()
