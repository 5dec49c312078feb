"""Export a captioner to run elsewhere: sat-export --model runs/flickr8k/best --onnx exported"""

from __future__ import annotations

import sys
from typing import Any, Literal

from sat.cli import FlagParser, cli_errors
from sat.config.checks import check_paths


def parse(arguments: list[str]) -> Any:
    parser = FlagParser(description=__doc__)
    parser.add_argument("--model", "-m", type=str, help="checkpoint folder or the tutorial's; ours")
    parser.add_argument("--word_map", "-wm", type=str, help="for the tutorial's checkpoints")
    parser.add_argument(
        "--onnx", type=str, required=True, help="folder of two ONNX files and their reader"
    )
    modes = Literal["expected", "argmax"]
    parser.add_argument("--test_attention", type=modes, help="expected, argmax; the model's own")
    return parser.parse_args(arguments)


@cli_errors()
def main(arguments: list[str] | None = None) -> None:
    flags = parse(sys.argv[1:] if arguments is None else arguments)
    check_paths(flags, ("model", "word_map", "onnx"))
    from sat.captioner import load
    from sat.export.onnx import export_onnx

    captioner = load(flags.model, flags.word_map)
    if flags.test_attention:
        captioner.model.set_attention_mode(flags.test_attention)
    export_onnx(captioner, flags.onnx)
    print(f"exported: python {flags.onnx}/caption_onnx.py photo.jpg")
