"""Caption a split with beam search and score it: python eval.py --model runs/default/best"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from sat.cli import add_flags, cli_errors, given
from sat.config.decoding import DecodingConfig
from sat.config.model import AttentionMode


def parse(arguments: list[str]) -> Any:
    """The flags; every decoding option is one."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model", "-m", type=str, required=True, help="checkpoint folder or file")
    parser.add_argument("--word_map", "-wm", type=str, help="for the tutorial's checkpoints")
    parser.add_argument("--data_folder", type=str, default="data", help="the prepared data")
    parser.add_argument("--data_name", type=str, help="found by itself if there is only one")
    parser.add_argument("--split", type=Literal["train", "val", "test"], default="test")
    parser.add_argument(
        "--metrics",
        type=str,
        nargs="+",
        default=["bleu"],
        help="bleu meteor rouge cider rouge_score",
    )
    parser.add_argument("--per_image", action="store_true", help="write each caption's scores too")
    parser.add_argument("--batch_size", type=int, default=32, help="images decoded together")
    parser.add_argument("--workers", type=int, default=1, help="processes that read images")
    parser.add_argument("--output_dir", type=str, help="of the results; the model's by default")
    parser.add_argument("--device", type=str, default="auto")
    parser.add_argument(
        "--test_attention", type=AttentionMode, help="expected, sampled or argmax; the model's own"
    )
    add_flags(parser, DecodingConfig, skip=("beam_size",), given_only=True)
    parser.add_argument(
        *("--beam_size", "--num_beams", "-b"),
        type=int,
        nargs="+",
        default=[1, 3, 5],
        help="one or more",
    )
    return parser.parse_args(arguments)


def main() -> None:
    flags = parse(sys.argv[1:])

    from tqdm import tqdm

    from sat.atomic_io import write_json
    from sat.captioner import decoding, load
    from sat.data.dataloader import evaluation_loader
    from sat.data.dataset import CaptionDataset, find_data_name
    from sat.device import resolve_device
    from sat.evaluation import evaluate, score_pointing_game, table

    captioner = load(flags.model, flags.word_map).to(resolve_device(flags.device))
    if flags.test_attention:
        captioner.model.decoder.test_attention = flags.test_attention
    name = flags.data_name or find_data_name(flags.data_folder)
    dataset = CaptionDataset(flags.data_folder, name, flags.split)
    folder = Path(flags.output_dir or (flags.model if Path(flags.model).is_dir() else "."))
    own = captioner.config.decoding
    choices = given(flags, DecodingConfig)
    runs = [decoding(own, **choices | {"beam_size": width}) for width in flags.beam_size]
    evaluations = evaluate(
        captioner.model,
        dataset,
        captioner.vocabulary,
        captioner.preprocessing,
        runs,
        metrics=flags.metrics,
        batch_size=flags.batch_size,
        workers=flags.workers,
        progress=lambda batches: tqdm(batches, desc=flags.split, unit="batch"),
    )
    for options, evaluation in zip(runs, evaluations):
        stem = f"captions_{flags.split}_beam{options.beam_size}"
        write_json(folder / f"{stem}_results.json", evaluation.results)
        scores = evaluation.scores | {"tokenizer": evaluation.tokenizer}
        if flags.per_image:
            lines = zip(evaluation.results, evaluation.per_image)
            scores["imgToEval"] = {str(line["image_id"]): line | each for line, each in lines}
        write_json(folder / f"{stem}_scores.json", scores)
    print(table(runs, evaluations))
    references = dataset.references(captioner.vocabulary)
    if any("boxes" in reference for reference in references):
        looked = score_pointing_game(
            captioner.model,
            evaluation_loader(dataset, flags.batch_size),
            evaluations[-1].captions,
            references,
            captioner.vocabulary,
            captioner.preprocessing,
        )
        write_json(folder / f"pointing_{flags.split}.json", looked)
        print(
            f"attention at the {looked['nouns']} nouns that name an object: peak in its box "
            f"{looked['peak_inside']:.0%}, mass in its box {looked['mass_inside']:.0%}, "
            f"by chance {looked['chance']:.0%}"
        )
    print(f"captions and scores: {folder}/captions_{flags.split}_beam*_*.json")


if __name__ == "__main__":
    with cli_errors():
        main()
