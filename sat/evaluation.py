"""Caption every image of a split once, score the captions, and write the results.

B images, P regions, D features, h and w cells of the attention grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sat.atomic_io import write_json
from sat.captioner import Captioner
from sat.config.decoding import DecodingConfig
from sat.config.model import Preprocessing
from sat.data.dataloader import Batch, evaluation_loader
from sat.data.dataset import CaptionDataset
from sat.data.progress import Progress
from sat.data.vocabulary import Vocabulary
from sat.decoding.attention_maps import join_tokens, replay
from sat.decoding.generate import generate
from sat.decoding.hypothesis import Hypothesis
from sat.distributed import in_rounds, merge, on_rank_zero, share
from sat.metrics.bleu import bleu
from sat.metrics.coco import Scores, coco_scores
from sat.metrics.pointing_game import cells_inside, named_objects, share_all_named
from sat.models.base import encode_batch

NOT_PERCENT = ("brevity_penalty", "gen_len")
"""scores that tables do not show times 100"""


@dataclass(frozen=True)
class Evaluation:
    """The captions of a split and their scores."""

    scores: dict[str, float]
    results: list[dict[str, Any]]
    """COCO results: one {"image_id", "caption"} an image"""
    captions: dict[int, Hypothesis]
    """by the image's index in the split"""
    per_image: list[dict[str, float]]
    """scores of each caption alone, where the metric has them"""
    tokenizer: str
    unfinished: int
    """captions cut off by the step limit"""


@torch.inference_mode()
def caption_dataset(
    captioner: Captioner,
    loader: Iterable[Batch],
    runs: Sequence[DecodingConfig],
    progress: Progress = iter,
    on_batch: Callable[[Tensor, dict[int, Hypothesis]], None] | None = None,
) -> list[dict[int, Hypothesis]]:
    """For each of the decoding options `runs`, the best caption of every image, by its index.

    Each image is encoded once, however many runs there are, by one of the ranks. `on_batch` gets the features of each
    batch and its captions by the last of the runs.
    """
    model = captioner.model.eval()
    captions: list[dict[int, Hypothesis]] = [{} for _ in runs]
    for batch in in_rounds(progress(loader)):
        features = encode_batch(model, batch.images)
        for options, by_image in zip(runs, captions):
            found = generate(model, features, options)
            best = {i: one[0] for i, one in zip(batch.indices.tolist(), found)}
            by_image |= best
        if on_batch:
            on_batch(features, best)
    return [merge(by_image) for by_image in captions]


def evaluate(
    captioner: Captioner,
    dataset: CaptionDataset,
    runs: Sequence[DecodingConfig],
    *,
    metrics: Sequence[str] = (),
    batch_size: int = 32,
    workers: int = 0,
    progress: Progress = iter,
    on_batch: Callable[[Tensor, dict[int, Hypothesis]], None] | None = None,
) -> list[Evaluation]:
    """Caption every image of the split with each of `runs`, as `caption_dataset`, and score it."""
    check_preprocessing(captioner.preprocessing, dataset)
    loader = evaluation_loader(dataset, batch_size, workers=workers, share=share())
    captions = caption_dataset(captioner, loader, runs, progress, on_batch)
    parts = (dataset, captioner.vocabulary, metrics)
    return on_rank_zero(lambda: [score(by_image, *parts) for by_image in captions])


def score(
    captions: dict[int, Hypothesis],
    dataset: CaptionDataset,
    vocabulary: Vocabulary,
    metrics: Sequence[str] = (),
) -> Evaluation:
    """Scores of one caption an image against all the captions that people wrote for it.

    `metrics` are names of `sat.metrics.coco`; without any it is BLEU on NLTK's tokens, which needs
    no other program and which validation uses. With "rouge_score" comes "gen_len", the mean number
    of words or tokens generated, start and end not counted. Raises `ValueError` unless there is one
    caption for every image.
    """
    references = dataset.references(vocabulary)
    if sorted(captions) != list(range(len(references))):
        raise ValueError(
            f"{len(captions)} captions for {len(references)} images of {dataset.split}: "
            "caption every image exactly once"
        )
    hypotheses = [captions[i] for i in range(len(references))]
    texts = [vocabulary.decode(hypothesis.words) for hypothesis in hypotheses]
    results = [
        {"image_id": reference["image_id"], "caption": text}
        for reference, text in zip(references, texts)
    ]
    written = [reference["captions"] for reference in references]
    if metrics:
        scored = coco_scores(written, texts, metrics)
    else:
        scored = Scores(bleu(written, texts), [{} for _ in texts], "nltk")
    scores = dict(scored.corpus)
    if "rouge_score" in metrics:
        scores["gen_len"] = float(np.mean([len(hypothesis.words) for hypothesis in hypotheses]))
    return Evaluation(
        scores=scores,
        results=results,
        captions=captions,
        per_image=scored.per_image,
        tokenizer=scored.tokenizer,
        unfinished=sum(not hypothesis.finished for hypothesis in hypotheses),
    )


class PointingGame:
    """The share of named objects in whose box the attention peaks, and the mass inside the box.

    After the pointing game of Zhang et al. 2016 ("Top-down Neural Attention by Excitation
    Backprop"). It looks at every word of a caption that, with the words before it, names an object
    of its image: `references[i]` holds "boxes" [{"words", "box" (left, top, right, bottom in
    pixels)}]. "chance" is the mean share of the image that those boxes cover, the score of a flat
    map.
    """

    def __init__(self, captioner: Captioner, references: Sequence[dict[str, Any]]) -> None:
        self.captioner, self.references = captioner, references
        self.rows: dict[int, list[tuple[float, float, float]]] = {}  # of each image's nouns
        self.captions: dict[int, list[str]] = {}

    def add(self, features: Tensor, captions: dict[int, Hypothesis]) -> None:
        """Play with a batch: features float[B, P, D] and the caption of each image by its index."""
        side, vocabulary = self.captioner.preprocessing.size, self.captioner.vocabulary
        for one, (index, caption) in zip(features.split(1), captions.items()):
            words, lengths = vocabulary.words_and_lengths(caption.words)
            [replayed] = replay(self.captioner.model, one, [caption.words])
            alphas = join_tokens(replayed, lengths)[0].cpu().numpy()
            self.captions[index], self.rows[index] = words, []
            for position, box in named_objects(words, self.references[index].get("boxes", [])):
                inside = cells_inside(box, side, alphas.shape[1:])
                alpha = alphas[position]
                at_peak = inside.flat[alpha.argmax()]
                row = (float(at_peak), float((alpha * inside).sum()), inside.mean())
                self.rows[index].append(row)

    def scores(self) -> dict[str, float]:
        """The scores of the batches so far, of all ranks."""
        rows = [row for of_image in merge(self.rows).values() for row in of_image]
        captions = merge(self.captions)
        peak, mass, chance = np.mean(rows, axis=0) if rows else (0.0, 0.0, 0.0)
        return {
            "nouns": len(rows),
            "peak_inside": float(peak),
            "mass_inside": float(mass),
            "chance": float(chance),
            "all_named": share_all_named(
                list(captions.values()),
                [self.references[index].get("boxes", []) for index in captions],
            ),
        }


def check_preprocessing(preprocessing: Preprocessing, dataset: CaptionDataset) -> None:
    """Raise `ValueError` unless the data were prepared in the size the model expects."""
    prepared = (dataset.image_size, dataset.resize)
    expected = (preprocessing.size, preprocessing.resize)
    if prepared != expected:
        raise ValueError(
            f"{dataset.path('IMAGES', '.hdf5')} holds {prepared[0]} px images ({prepared[1]}), "
            f"the model was trained on {expected[0]} px ({expected[1]}): prepare the data with "
            f"--image_size {expected[0]} --resize {expected[1]}"
        )


def write_results(
    folder: Path,
    split: str,
    runs: Sequence[DecodingConfig],
    evaluations: Sequence[Evaluation],
    pointing: dict[str, float] | None = None,
    *,
    per_image: bool = False,
) -> None:
    """Write captions_SPLIT_beamK_results.json (COCO's layout) and ..._scores.json for each run.

    With `per_image` the scores file holds each caption's own scores too, under "imgToEval". The
    result of the `pointing` game goes to pointing_SPLIT.json.
    """
    if pointing is not None:
        write_json(folder / f"pointing_{split}.json", pointing)
    for options, evaluation in zip(runs, evaluations):
        stem = f"captions_{split}_beam{options.beam_size}"
        write_json(folder / f"{stem}_results.json", evaluation.results)
        scores: dict[str, Any] = evaluation.scores | {"tokenizer": evaluation.tokenizer}
        if per_image:
            lines = zip(evaluation.results, evaluation.per_image)
            scores["imgToEval"] = {str(line["image_id"]): line | each for line, each in lines}
        write_json(folder / f"{stem}_scores.json", scores)


def table(runs: Sequence[DecodingConfig], evaluations: Sequence[Evaluation]) -> str:
    """The scores as a Markdown table, a row for each run; scores times 100.

    Where the runs differ in their length penalty, it has a column too.
    """
    names = list(evaluations[0].scores)
    penalized = len({options.length_penalty for options in runs}) > 1
    heading = ["beam", *["length_penalty"] * penalized, *names, "unfinished"]
    rows = [heading, ["---"] * len(heading)]
    for options, evaluation in zip(runs, evaluations):
        values = [
            f"{value:.3f}" if name in NOT_PERCENT else f"{100 * value:.1f}"
            for name, value in evaluation.scores.items()
        ]
        penalty = [f"{options.length_penalty:g}"] * penalized
        rows.append([str(options.beam_size), *penalty, *values, str(evaluation.unfinished)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def pointing_report(pointing: dict[str, float]) -> str:
    """The scores of a `PointingGame` as one line."""
    return (
        f"all objects named rightly in {pointing['all_named']:.0%} of the scenes; "
        f"attention at the {pointing['nouns']} nouns that name an object: peak in its box "
        f"{pointing['peak_inside']:.0%}, mass in its box {pointing['mass_inside']:.0%}, "
        f"by chance {pointing['chance']:.0%}"
    )
