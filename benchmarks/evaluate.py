"""Whole epochs: stage 1 with cached features, and evaluation, against the reference's pipeline.

    python -m benchmarks.evaluate [--device cuda] [--quick] [--data_folder data/flickr8k]

The reference's pipeline encodes the picture of every caption anew (ResNet-101, 256×256, pooled up
to 14×14) and takes the reference decoder's step; its evaluation serves one image at a time. Both
sides have the same encoder, with random weights, as only its time matters. A few batches are
measured and scaled up to Flickr8k's training split; where that is prepared in `--data_folder`, the
captions are as long as its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks import decode, measure, pair, stand_in
from benchmarks.loader import TutorialDataset, our_loader
from benchmarks.pipeline import QUICK, Scale, our_model, reference_models
from benchmarks.train_step import BATCH, Step, our_step, reference_step
from sat.captioner import Captioner
from sat.config.decoding import DecodingConfig
from sat.config.model import IMAGENET_MEAN, IMAGENET_STD, ModelConfig
from sat.data.dataloader import Batch, evaluation_loader
from sat.data.dataset import CaptionDataset, find_data_name
from sat.evaluation import caption_dataset
from sat.models.base import Normalize
from sat.models.encoder import Encoder
from sat.models.show_attend_tell import ShowAttendTell

IMAGES, CAPTIONS = 6000, 30000
"""of Flickr8k's training split: what is measured is scaled up to"""
BEAM = 5


def lengths_in(folder: Path, captions: int) -> np.ndarray | None:
    """Lengths of the first captions of the training data prepared there, if they are."""
    if not any(folder.glob("WORDMAP_*.json")):
        return None
    return CaptionDataset(folder, find_data_name(folder), "train").lengths[:captions]


def endless(loader: DataLoader) -> Iterator[Any]:
    while True:
        yield from loader


def take_steps(step: Step, batches: Iterator[Batch], number: int) -> None:
    for _ in range(number):
        step(next(batches))


def reference_pipeline(encoder: Encoder, step: Step, batches: Iterator[Any]) -> None:
    """A batch as the tutorial takes it: the picture of each caption encoded anew."""
    images, captions, lengths = next(batches)
    device = next(encoder.parameters()).device
    with torch.no_grad():
        features = encoder(images.to(device)).flatten(1, 2)
    step(Batch(features, captions.to(device), lengths.to(device), torch.arange(len(captions))))


@torch.inference_mode()
def encode(model: ShowAttendTell, images: Tensor) -> None:
    """What caching features costs a batch."""
    model.encode(images)


def training(
    scale: Scale, model: ShowAttendTell, pixels: CaptionDataset, folder: Path, quick: bool
) -> str:
    """The table of an epoch of stage 1."""
    device, dim = next(model.parameters()).device, model.encoder.encoder_dim
    sizes = pair.sizes_for(quick)._replace(features=dim, vocabulary=model.decoder.vocab_size)
    cached = pixels.reading(stand_in.features(folder, pixels.num_images, pair.NATIVE, dim))
    _, step = our_step(sizes._replace(cells=pair.NATIVE), device, pair.TUTORIAL)
    batches = endless(our_loader(cached, scale.batch, 0))
    calls = [partial(take_steps, step, batches, scale.ours)]
    encoder, _ = reference_models(model, scale)
    _, step = reference_step(sizes, device, pair.TUTORIAL)
    loader = DataLoader(TutorialDataset(folder), scale.batch, shuffle=True, drop_last=True)
    images = torch.stack([pixels.image(i) for i in range(scale.batch)]).to(device)
    calls += [
        partial(reference_pipeline, encoder, step, endless(loader)),
        partial(encode, model, images),
    ]
    ours, theirs, encoding = measure.in_turn(calls, scale.rounds, device)
    epoch = ours.median / scale.ours * CAPTIONS / scale.batch
    once = encoding.median * IMAGES / scale.batch
    whole = theirs.median * CAPTIONS / scale.batch
    rows = [
        [
            name,
            measure.seconds(seconds),
            measure.seconds(whole),
            measure.ratio(whole, seconds),
            f"{CAPTIONS / seconds:.0f}",
            f"{CAPTIONS / whole:.1f}",
        ]
        for name, seconds in (
            ("every epoch but the first", epoch),
            ("the first, which encodes each image once", epoch + once),
        )
    ]
    head = (
        "cached features, 14×14 from 8×8",
        "ours",
        "reference",
        "ratio",
        "ours, captions/s",
        "reference's",
    )
    return measure.table(head, rows)


@torch.no_grad()
def one_by_one(
    encoder: Encoder, decoder: nn.Module, pixels: CaptionDataset, images: int
) -> list[list[int]]:
    """Captions of the first images, each encoded and searched by itself."""
    device, found = next(decoder.parameters()).device, []
    normalize = Normalize(IMAGENET_MEAN, IMAGENET_STD).to(device)
    for i in range(images):
        image = normalize(pixels.image(i)[None].to(device))
        caption = decode.one_by_one(decoder, encoder(image).flatten(1, 2), BEAM)
        found += [words for words, _ in caption]
    return found


def together(model: ShowAttendTell, pixels: CaptionDataset) -> list[list[int]]:
    """Captions of all images, as `eval.py` finds them."""
    loader, options = evaluation_loader(pixels, BATCH), DecodingConfig(beam_size=BEAM)
    captioner = Captioner(model, None, ModelConfig())  # type: ignore[arg-type]
    (captions,) = caption_dataset(captioner, loader, [options])
    return [captions[i].words for i in range(len(captions))]


def evaluation(scale: Scale, model: ShowAttendTell, pixels: CaptionDataset) -> str:
    """The table of captioning the test images, and how many captions are identical."""
    few = max(2, scale.batch // 4)
    reference = reference_models(model, scale)
    ways = [
        partial(together, model, pixels),
        partial(one_by_one, *reference, pixels, few),
    ]
    same = sum(one == other for one, other in zip(*(way() for way in ways)))
    device = next(model.parameters()).device
    mine, theirs = measure.in_turn(ways, scale.rounds, device, warm_up=0)
    each = [mine.median / pixels.num_images, theirs.median / few]
    rows = [
        [name, *(measure.seconds(time) for time in (each[0], slow)), measure.ratio(slow, each[0])]
        for name, slow in (
            ("each image once on both sides", each[1]),
            ("the tutorial's eval.py, each image five times", stand_in.PER_IMAGE * each[1]),
        )
    ]
    head = (f"evaluation at beam {BEAM}, an image", "ours", "reference", "ratio")
    return f"{measure.table(head, rows)}\n\n{same} of {few} captions are identical."


def report(quick: bool, device: torch.device, data: Path) -> str:
    """The tables."""
    scale = QUICK if quick else Scale()
    model = our_model(scale, quick, device)
    lengths = None if quick else lengths_in(data, scale.images * stand_in.PER_IMAGE)
    with tempfile.TemporaryDirectory() as name:
        words = model.decoder.vocab_size
        pixels = stand_in.prepared(Path(name), scale.images, scale.side, words, lengths)
        epochs = training(scale, model, pixels, Path(name), quick)
        captions = evaluation(scale, model, pixels)
    peaks = measure.measure_peaks(device, quick)
    whose = "random" if lengths is None else "Flickr8k's"
    return "\n\n".join(
        [
            f"## Epochs and evaluation\n\n{measure.machine(device, peaks)} {scale.rounds} rounds "
            f"in turn of {scale.ours} batches of {scale.batch} (the reference: one); medians, "
            f"scaled up to the {CAPTIONS:,} captions of {IMAGES:,} images of Flickr8k; lengths of "
            f"the captions: {whose}.",
            epochs,
            captions,
        ]
    )


def main() -> None:
    parser = measure.options(__doc__)
    parser.add_argument("--data_folder", type=Path, default=Path("data/flickr8k"))
    flags = parser.parse_args()
    print(report(flags.quick, measure.begin(flags), flags.data_folder))


if __name__ == "__main__":
    main()
