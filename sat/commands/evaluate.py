"""Caption a split with beam search and score it: sat-eval --model runs/default/best"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sat.cli import FlagParser, add_flags, cli_errors, complete_flags, given
from sat.config.checks import check_paths
from sat.config.decoding import DecodingConfig
from sat.config.model import AttentionMode
from sat.config.training import Precision

BEAM_SIZES = (1, 3, 5)
"""that are tried besides the model's own"""


def parse(arguments: list[str]) -> Any:
    """The flags; every decoding option is one."""
    parser = FlagParser(description=__doc__)
    flag = parser.add_argument
    flag("--model", "-m", type=str, required=True, help="checkpoint folder or file")
    flag("--word_map", "-wm", type=str, help="for the tutorial's checkpoints")
    flag("--data_folder", type=str, default="data", help="the prepared data")
    flag("--data_name", type=str, help="found by itself if there is only one")
    flag("--split", type=Literal["train", "val", "test"], default="test")
    metrics = "bleu meteor rouge cider rouge_score"
    flag("--metrics", type=str, nargs="+", default=["bleu"], help=metrics)
    flag("--per_image", action="store_true", help="write each caption's scores too")
    flag("--batch_size", type=int, default=32, help="images decoded together")
    flag("--workers", type=int, default=1, help="processes that read images")
    folder = ("--output_dir", "--results_dir")
    flag(*folder, type=str, help="of the results; the model's by default")
    flag("--device", type=str, default="auto")
    flag("--ddp_timeout", type=float, default=1800.0, help="seconds that torchrun's ranks wait")
    flag("--precision", type=Precision, default="float32", help="auto: bfloat16 where it is fast")
    flag("--test_attention", type=AttentionMode, help="expected, sampled, argmax; the model's own")
    add_flags(parser, DecodingConfig, skip=("beam_size",), given_only=True)
    beams = ("--beam_size", "--num_beams", "-b")
    flag(*beams, type=int, nargs="+", help="one or more; default: 1 3 5 and the model's own")
    return parser.parse_args(complete_flags(DecodingConfig, arguments))


@cli_errors()
def main(arguments: list[str] | None = None) -> None:
    flags = parse(sys.argv[1:] if arguments is None else arguments)
    check_paths(flags, ("model", "word_map", "data_folder", "output_dir"))
    from sat.distributed import process_group

    with process_group(flags.ddp_timeout):
        evaluate(flags)


def evaluate(flags: Any) -> None:
    """Caption and score the split, all ranks together; print and write the results."""
    from sat import evaluation, results
    from sat.captioner import load
    from sat.data.dataset import CaptionDataset, find_data_name
    from sat.data.progress import progress_bar
    from sat.device import resolve_dtype
    from sat.distributed import on_rank_zero

    dtype = resolve_dtype(flags.precision, flags.device)
    captioner = load(flags.model, flags.word_map, device=flags.device, dtype=dtype)
    if flags.test_attention:
        captioner.model.set_attention_mode(flags.test_attention)
    name = flags.data_name or find_data_name(flags.data_folder)
    dataset = CaptionDataset(flags.data_folder, name, flags.split)
    own = captioner.config.decoding
    choices = {"num_return_sequences": 1} | given(flags, DecodingConfig)  # the best is scored
    widths = choices.pop("beam_size") or sorted({*BEAM_SIZES, own.beam_size})
    runs = [own.changed(**choices, beam_size=width) for width in widths]
    if runs[0].samples:
        runs = runs[:1]  # samples have no beams
    how = {"metrics": flags.metrics, "batch_size": flags.batch_size, "workers": flags.workers}
    progress = partial(progress_bar, desc=flags.split, unit="batch")
    references, game = dataset.references(captioner.vocabulary), None
    if any("boxes" in reference for reference in references):
        game = evaluation.PointingGame(captioner, references)
        how["on_batch"] = game.add
    evaluations = evaluation.evaluate(captioner, dataset, runs, progress=progress, **how)
    print(results.table(runs, evaluations))
    print(f"the model's own decoding: beam {own.beam_size}, length penalty {own.length_penalty:g}")
    pointing = game.scores() if game else None
    if pointing and pointing["nouns"]:
        print(results.pointing_report(pointing, runs))
    folder = Path(flags.output_dir or (flags.model if Path(flags.model).is_dir() else "."))
    parts = (flags.split, runs, evaluations, pointing)
    try:
        on_rank_zero(partial(results.write_results, folder, *parts, per_image=flags.per_image))
    except OSError as error:
        remedy = "name a folder that can be written with --results_dir"
        raise OSError(f"{folder} does not take the results ({error}): {remedy}") from error
    print(f"captions and scores: {folder}/captions_{flags.split}_beam*_*.json")
    print(f"tables to paste: {folder}/table_{flags.split}.csv, .tex")
