"""Caption every image of a split once, and score the captions.

B images, P regions, D features, h and w cells of the attention grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
from sat.metrics.coco import Scores, check_metrics, coco_scores
from sat.metrics.pointing_game import (
    cells_inside,
    centered_blob,
    movement,
    named_objects,
    share_all_named,
)
from sat.models.base import encode_batch


@dataclass(frozen=True)
class Evaluation:
    """The captions of a split and their scores."""

    scores: dict[str, float]
    results: list[dict[str, Any]]
    """COCO results: one {"image_id", "caption"} an image"""
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

    Each image is encoded once, however many runs there are. `on_batch` gets the features of each
    batch that this rank reads, and its captions by the last of the runs.
    """
    model = captioner.model.eval()
    captions: list[dict[int, Hypothesis]] = [{} for _ in runs]
    for batch in in_rounds(progress(loader)):
        features = encode_batch(model, batch.images)
        for options, by_image in zip(runs, captions):
            found = generate(model, features, options.of_batch(int(batch.indices[0])))
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
    check_metrics(metrics)
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
    captions_of_image = [reference["captions"] for reference in references]
    if metrics:
        scored = coco_scores(captions_of_image, texts, metrics)
    else:
        scored = Scores(bleu(captions_of_image, texts), [{} for _ in texts], "nltk")
    scores = dict(scored.corpus)
    if "rouge_score" in metrics:
        scores["gen_len"] = float(np.mean([len(hypothesis.words) for hypothesis in hypotheses]))
    return Evaluation(
        scores=scores,
        results=results,
        per_image=scored.per_image,
        tokenizer=scored.tokenizer,
        unfinished=sum(not hypothesis.finished for hypothesis in hypotheses),
    )


class PointingGame:
    """The share of named objects in whose boxes the attention peaks, and the mass inside them.

    After the pointing game of Zhang et al. 2016 ("Top-down Neural Attention by Excitation
    Backprop"). It looks at every word of a caption that, with the words before it, names objects
    of its image: `references[i]` holds "boxes" [{"words", "box" (left, top, right, bottom in
    pixels)}]. Beside it stand two maps that see nothing: "chance" is the mean share of the image
    that those boxes cover, the mass of a flat map, and "center_inside" and "center_mass" are the
    scores of a blob in the middle. "movement" is the mean total variation between the maps of a
    word and the next.
    """

    def __init__(self, captioner: Captioner, references: Sequence[dict[str, Any]]) -> None:
        self.captioner, self.references = captioner, references
        self.rows: dict[int, list[tuple[float, ...]]] = {}  # by image, as all of these
        self.moved: dict[int, list[float]] = {}
        self.captions: dict[int, list[str]] = {}

    def add(self, features: Tensor, captions: dict[int, Hypothesis]) -> None:
        """Play with a batch: features float[B, P, D] and the caption of each image by its index."""
        side, vocabulary = self.captioner.preprocessing.size, self.captioner.vocabulary
        for one, (index, caption) in zip(features.split(1), captions.items()):
            words, lengths = vocabulary.words_and_lengths(caption.words)
            [replayed] = replay(self.captioner.model, one, [caption], index)
            alphas = join_tokens(replayed, lengths)[0].cpu().numpy()
            self.captions[index], self.moved[index], rows = words, movement(alphas), []
            blob = centered_blob(alphas.shape[1:])
            for position, boxes in named_objects(words, self.references[index].get("boxes", [])):
                inside = cells_inside(boxes, side, alphas.shape[1:])
                scores = [
                    score
                    for alpha in (alphas[position], blob)
                    for score in (inside.flat[alpha.argmax()], (alpha * inside).sum())
                ]
                rows.append((*scores, inside.mean()))
            self.rows[index] = rows

    def scores(self) -> dict[str, float]:
        """The scores of the batches so far, of all ranks."""
        names = ("peak_inside", "mass_inside", "center_inside", "center_mass", "chance")
        rows = [row for of_image in merge(self.rows).values() for row in of_image]
        moved = [distance for of_image in merge(self.moved).values() for distance in of_image]
        captions = merge(self.captions)
        means = np.mean(rows, axis=0).tolist() if rows else [0.0] * len(names)
        return {
            "nouns": len(rows),
            **dict(zip(names, means)),
            "movement": float(np.mean(moved)) if moved else 0.0,
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
