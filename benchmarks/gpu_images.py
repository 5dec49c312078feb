"""Photos a second on a GPU: encoded by the frozen encoder, drawn from, and captioned at beam 5."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import measure, pair, stand_in
from benchmarks.evaluate import one_by_one
from benchmarks.gpu_setting import (
    DEFAULTS,
    IMAGES,
    PRECISIONS,
    TEST_IMAGES,
    Setting,
    Way,
    computing,
    config_precision,
    endless,
    forget_peak,
    minutes,
    pace,
    peak,
    products,
    table,
    tried,
)
from benchmarks.gpu_training import loader_for
from benchmarks.pipeline import our_model, reference_models
from sat.captioner import Captioner
from sat.config.decoding import DecodingConfig
from sat.config.model import IMAGENET_MEAN, IMAGENET_STD, ModelConfig
from sat.config.training import StageConfig, TrainConfig
from sat.data.dataloader import evaluation_loader
from sat.data.dataset import CaptionDataset
from sat.evaluation import caption_dataset
from sat.models.base import Normalize
from sat.models.decoder import DecoderWithAttention
from sat.models.show_attend_tell import ShowAttendTell
from sat.training.objectives.self_critical import SelfCriticalObjective, reward_of

WAYS_OF_REWARD = [("leave_one_out", precision) for precision in PRECISIONS] + [("greedy", "TF32")]
ROUNDS = 2
"""in which a data set is captioned"""


def pixels_as_floats(pixels: Tensor) -> Tensor:
    """Normalized on the CPU, as the tutorial's loader gives them."""
    return Normalize(IMAGENET_MEAN, IMAGENET_STD)(pixels)


@torch.inference_mode()
def encode_all(
    encode: Callable[[Tensor], Tensor], images: Tensor, precision: str, device: torch.device
) -> None:
    with computing(precision, device):
        encode(images.to(device, non_blocking=True))


def encoding(setting: Setting, quick: bool, device: torch.device) -> Iterator[str]:
    """Pictures a second through the frozen encoder, the copy to the card included."""
    scale = setting.pipeline
    model = our_model(scale, quick, device, setting.words)
    theirs, _ = reference_models(model, scale)  # its weights lie as torch lays them by default
    plain = model.normalize
    ways: list[tuple[str, Callable, str, int]] = [
        ("tutorial's, normalised floats", theirs, DEFAULTS, scale.batch)
    ]
    ways += [
        (name, encode, precision, batch)
        for batch in (scale.batch, setting.wide)
        for precision in PRECISIONS
        for name, encode in (
            ("ours (channels last)", model.encode),
            ("channels first", lambda images: theirs(plain(images))),
        )
    ]
    slow: list[float] = []

    def rows(name: str, encode: Callable, precision: str, batch: int) -> Iterator[list[object]]:
        pixels = torch.randint(0, 256, (batch, 3, scale.side, scale.side), dtype=torch.uint8)
        images = pixels_as_floats(pixels) if encode is theirs else pixels
        images = images.pin_memory() if device.type == "cuda" else images
        forget_peak(device)
        call = partial(encode_all, encode, images, precision, device)
        (time,) = measure.in_turn([call], setting.rounds, device, warm_up=2)
        rate = batch / time.median
        slow.append(rate)  # the first is the tutorial's
        told = [measure.megabytes(peak(device)), measure.seconds(IMAGES / rate)]
        yield [name, precision, batch, f"{rate:.0f}", measure.ratio(rate, slow[0]), *told]

    head = ("encoder", "precision", "batch", "photos/s", "ratio", "peak memory", "COCO once")
    yield f"{scale.backbone}, {scale.side}×{scale.side} px, from pinned memory, median."
    found = (tried(f"{way[0]}, {way[2]}", len(head), rows, *way) for way in ways)
    yield from table(head, chain.from_iterable(found))


def self_critical(setting: Setting, quick: bool, device: torch.device) -> Iterator[str]:
    """Images a second of the self-critical objective, five captions drawn of each."""
    size = setting.pipeline.batch
    head = ("baseline", "precision", "photos/s", "captions drawn/s", "peak memory", "COCO epoch")
    yield (
        f"Batches of {size} photos, five captions drawn of each, cached features, CIDEr-D on the "
        "CPU. The tutorial has no such stage."
    )
    sizes = pair.sizes_for(quick, 196, pair.NATIVE)._replace(vocabulary=setting.words)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = stand_in.prepared(folder, setting.pictures, 8, setting.words)
        stored = stand_in.features(folder, setting.pictures, pair.NATIVE, sizes.features)
        cached, reward = data.reading(stored), reward_of(data)

        def rows(baseline: str, precision: str) -> Iterator[list[object]]:
            decoder = pair.decoder(DecoderWithAttention, sizes, pair.TUTORIAL)
            pair.teach_to_end(decoder)
            model = pair.captioner(decoder).to(device)
            optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-6, fused=True)
            config = TrainConfig(precision=config_precision(precision))  # type: ignore[arg-type]
            stage = StageConfig(objective="self_critical", samples=5, baseline=baseline)  # type: ignore[arg-type]
            objective = SelfCriticalObjective(model, config, stage, reward)
            step = partial(pair.step, objective, optimizer, config=config)
            way = Way(baseline, precision, size, 0)
            batches = endless(loader_for(cached, way, device, kind="random", stride=5))
            with products(precision):
                found = pace(step, batches, lambda batch: len(batch.images), setting, device)
            told = [measure.megabytes(found.peak), minutes(found.rate, IMAGES)]
            yield [baseline, precision, found, f"{5 * found.rate:.0f}", *told]

        found = (
            tried(f"{baseline}, {precision}", len(head), rows, baseline, precision)
            for baseline, precision in WAYS_OF_REWARD
        )
        yield from table(head, chain.from_iterable(found))


def captioned(
    model: ShowAttendTell, pixels: CaptionDataset, batch: int, beam: int, workers: int
) -> list[list[int]]:
    """The caption of every image, as `eval.py` finds them."""
    loader = evaluation_loader(pixels, batch, workers=workers, pin=torch.cuda.is_available())
    captioner = Captioner(model, None, ModelConfig())  # type: ignore[arg-type]
    (found,) = caption_dataset(captioner, loader, [DecodingConfig(beam_size=beam)])
    return [found[i].words for i in range(len(found))]


def evaluation(setting: Setting, quick: bool, device: torch.device) -> Iterator[str]:
    """Photos a second captioned from pixels, against one at a time and five times each."""
    scale, few = setting.pipeline, setting.few
    head = ("whose", "beam", "precision", "batch", "photos/s", "ratio", "peak memory")
    head = (*head, f"{TEST_IMAGES:,} photos")
    model = our_model(scale, quick, device, setting.words)
    theirs = reference_models(model, scale)
    ways = [(5, precision, setting.wide) for precision in PRECISIONS]
    ways += [(5, "TF32", scale.batch)]
    ways += [(beam, "TF32", setting.wide) for beam in (3, 1)]
    slow: list[float] = []
    yield (
        f"{setting.captioned} photos from pixels, {setting.workers} workers, their start included; "
        f"the tutorial encodes and searches each photo once a caption, five times (of {few} "
        "photos, scaled up)."
    )
    with tempfile.TemporaryDirectory() as name:
        pixels = stand_in.prepared(Path(name), setting.captioned, scale.side, setting.words)

        def first() -> Iterator[list[object]]:
            call = partial(one_by_one, *theirs, pixels, few)
            with products(DEFAULTS):
                (time,) = measure.in_turn([call], ROUNDS, device)
            slow.append(few / time.median / stand_in.PER_IMAGE)
            took = measure.seconds(TEST_IMAGES / slow[0])
            yield ["the tutorial's eval.py", 5, DEFAULTS, 1, f"{slow[0]:.1f}", "1.00×", "", took]

        def other(beam: int, precision: str, batch: int) -> Iterator[list[object]]:
            forget_peak(device)
            call = partial(captioned, model, pixels, batch, beam, setting.workers)
            with computing(precision, device):
                (time,) = measure.in_turn([call], ROUNDS, device)
            rate = pixels.num_images / time.median
            ratio = measure.ratio(rate, slow[0]) if beam == 5 and slow else ""
            told = [measure.megabytes(peak(device)), measure.seconds(TEST_IMAGES / rate)]
            yield ["ours", beam, precision, batch, f"{rate:.0f}", ratio, *told]

        def equal() -> Iterator[list[object]]:
            with products("float32"):
                said = captioned(model, pixels, scale.batch, 5, setting.workers)
                expected = one_by_one(*theirs, pixels, few)
            same = sum(one == other for one, other in zip(said, expected))
            yield [f"{same} of {few} captions identical", 5, "float32", *[""] * (len(head) - 3)]

        found = [tried("the tutorial's eval.py", len(head), first)]
        found += [tried(f"ours, {way}", len(head), other, *way) for way in ways]
        found += [tried("captions compared", len(head), equal)]
        yield from table(head, chain.from_iterable(found))
