"""Does attention fall on the object a word names? Scored where boxes are known (`shapes`).

h and w cells of the grid. After the pointing game of Zhang et al. 2016 ("Top-down Neural Attention
by Excitation Backprop"): the peak of the map, and besides it the share of its mass, in the box.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sat.config.decoding import DecodingConfig
from sat.config.model import Preprocessing
from sat.data.dataloader import Batch, evaluation_loader
from sat.data.dataset import CaptionDataset
from sat.data.progress import Progress
from sat.data.transforms import normalize
from sat.data.vocabulary import Vocabulary
from sat.decoding.attention_maps import attention_maps
from sat.decoding.generate import generate
from sat.decoding.hypothesis import Hypothesis
from sat.metrics.bleu import bleu
from sat.metrics.coco import Scores, coco_scores
from sat.metrics.pointing_game import cells_inside, named_objects
from sat.models.show_attend_tell import ShowAttendTell


@torch.inference_mode()
def score_pointing_game(
    model: ShowAttendTell,
    loader: Iterable[Batch],
    captions: dict[int, Hypothesis],
    references: Sequence[dict[str, Any]],
    vocabulary: Vocabulary,
    preprocessing: Preprocessing,
) -> dict[str, float]:
    """How often the peak, and how much of the map, is in the box of the object named at its noun.

    Looks at every word of a caption that, with the words before it, names an object of its image:
    `references[i]["boxes"]` holds {"words", "box" (left, top, right, bottom in pixels)} of image i.
    "chance" is the mean share of the picture that those boxes cover: what a flat map would get.
    """
    found: list[tuple[float, float, float]] = []
    for batch in loader:
        features = features_of(model, batch, preprocessing)
        for row, index in zip(features.split(1), batch.indices.tolist()):
            words = vocabulary.words(captions[index].words)
            alphas = attention_maps(model, row, captions[index].words).cpu().numpy()
            for position, box in named_objects(words, references[index].get("boxes", [])):
                inside = cells_inside(box, preprocessing.size, alphas.shape[1:])
                alpha = alphas[position]
                at_peak = inside.flat[alpha.argmax()]
                found.append((float(at_peak), float((alpha * inside).sum()), inside.mean()))
    peak, mass, chance = np.mean(found, axis=0) if found else (0.0, 0.0, 0.0)
    return {
        "nouns": len(found),
        "peak_inside": float(peak),
        "mass_inside": float(mass),
        "chance": float(chance),
    }


NO_SHARES = ("brevity_penalty", "gen_len")
"""scores that tables do not show times 100"""


@dataclass(frozen=True)
class Evaluation:
    """The captions of a split and how they score."""

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


def features_of(model: ShowAttendTell, batch: Batch, preprocessing: Preprocessing) -> Tensor:
    """float[B, P, D] on the model's device, from a batch of pixels or of what was cached of them.

    That is the features, or the encoder's activations where its last blocks learn.
    """
    device = next(model.parameters()).device
    images = batch.images.to(device, non_blocking=True)
    if images.dtype == torch.uint8:
        return model.encode(normalize(images, preprocessing))
    return model.encode_rest(images.float()) if images.ndim == 4 else images.float()


@torch.inference_mode()
def caption_dataset(
    model: ShowAttendTell,
    loader: Iterable[Batch],
    preprocessing: Preprocessing,
    runs: Sequence[DecodingConfig],
    progress: Progress = iter,
) -> list[dict[int, Hypothesis]]:
    """For each way of decoding, the best caption of every image by its index in the split.

    Each image is encoded once, however many ways there are.
    """
    model.eval()
    captions: list[dict[int, Hypothesis]] = [{} for _ in runs]
    for batch in progress(loader):
        features = features_of(model, batch, preprocessing)
        for options, found in zip(runs, captions):
            best = [captions[0] for captions in generate(model, features, options)]
            found |= zip(batch.indices.tolist(), best)
    return captions


def evaluate(
    model: ShowAttendTell,
    dataset: CaptionDataset,
    vocabulary: Vocabulary,
    preprocessing: Preprocessing,
    runs: Sequence[DecodingConfig],
    *,
    metrics: Sequence[str] = (),
    batch_size: int = 32,
    workers: int = 0,
    progress: Progress = iter,
) -> list[Evaluation]:
    """Every image of the split captioned in each of the ways `runs`, and scored."""
    check_preprocessing(preprocessing, dataset)
    loader = evaluation_loader(dataset, batch_size, workers=workers)
    captions = caption_dataset(model, loader, preprocessing, runs, progress)
    return [score(found, dataset, vocabulary, metrics) for found in captions]


def score(
    captions: dict[int, Hypothesis],
    dataset: CaptionDataset,
    vocabulary: Vocabulary,
    metrics: Sequence[str] = (),
) -> Evaluation:
    """One caption an image against all the captions people wrote for it.

    By the `metrics` of `sat.coco_metrics`; when none are named by BLEU on NLTK's tokens, which
    needs no other program: what training validates with. With "rouge_score" comes "gen_len", the
    mean number of words or tokens generated, start and end not counted.
    """
    references = dataset.references(vocabulary)
    if sorted(captions) != list(range(len(references))):
        raise ValueError(
            f"{len(captions)} captions for {len(references)} images of {dataset.split}: "
            "caption every image exactly once"
        )
    texts = [vocabulary.decode(captions[i].words) for i in range(len(references))]
    results = [
        {"image_id": reference["image_id"], "caption": text}
        for reference, text in zip(references, texts)
    ]
    written = [reference["captions"] for reference in references]
    scored = coco_scores(written, texts, metrics) if metrics else _plain_bleu(written, texts)
    scores = dict(scored.corpus)
    if "rouge_score" in metrics:
        scores["gen_len"] = sum(len(said.words) for said in captions.values()) / len(captions)
    unfinished = sum(not caption.finished for caption in captions.values())
    return Evaluation(
        scores=scores,
        results=results,
        captions=captions,
        per_image=scored.per_image,
        tokenizer=scored.tokenizer,
        unfinished=unfinished,
    )


def _plain_bleu(written: Sequence[Sequence[str]], texts: Sequence[str]) -> Scores:
    return Scores(bleu(written, texts), [{} for _ in texts], "nltk")


def check_preprocessing(preprocessing: Preprocessing, dataset: CaptionDataset) -> None:
    """`ValueError` unless the data were prepared as the model sees photos."""
    prepared = (dataset.image_size, dataset.resize)
    expected = (preprocessing.size, preprocessing.resize)
    if prepared != expected:
        raise ValueError(
            f"{dataset.path('IMAGES', '.hdf5')} holds {prepared[0]} px pictures ({prepared[1]}), "
            f"the model was trained on {expected[0]} px ({expected[1]}): prepare the data with "
            f"--image_size {expected[0]} --resize {expected[1]}"
        )


def table(runs: Sequence[DecodingConfig], evaluations: Sequence[Evaluation]) -> str:
    """The scores as a Markdown table, a row for each way of decoding; scores times 100."""
    names = list(evaluations[0].scores)
    rows = [["beam", *names, "unfinished"], ["---"] * (len(names) + 2)]
    for options, evaluation in zip(runs, evaluations):
        values = [
            f"{value:.3f}" if name in NO_SHARES else f"{100 * value:.1f}"
            for name, value in evaluation.scores.items()
        ]
        rows.append([str(options.beam_size), *values, str(evaluation.unfinished)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
