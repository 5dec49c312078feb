"""ViT + GPT-2 beside plain `transformers`: captions and training, on the same random network.

    python -m benchmarks.vit_gpt2 [--device cuda] [--quick]

`transformers` decodes by `generate` with scaled dot products, and trains with its own loss and
torch's Adam. Every caption is made to have as many tokens, so that both sides do the same work.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks import measure
from benchmarks.gpu_vit import (
    HALF,
    SMALL,
    TOKENS,
    Words,
    batch_for,
    captioner,
    searches,
    steps,
)
from sat.captioner import Captioner
from sat.config.decoding import DecodingConfig
from sat.config.model import ModelConfig, Preprocessing, VitGpt2Config
from sat.models.vit_gpt2 import VitGpt2

LAYERS, TRAINED_LAYERS = 1, 12
"""of the encoder: one, so that decoding shows; all, where training is measured"""


class Numbers(Words):
    """Its words are their numbers."""

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))

    def words_and_lengths(self, ids: list[int]) -> tuple[list[str], list[int]]:
        return list(map(str, ids)), [1] * len(ids)


def of_size(quick: bool, layers: int) -> tuple[VitGpt2, int, int]:
    """A captioner with the sizes of ViT-B/16 and distilGPT-2, its pixels and its words."""
    if quick:
        return captioner(SMALL, 32, 12), 32, 12
    decoder = {"n_layer": 6, "n_positions": 64}
    hf = VitGpt2Config(encoder_config={"num_hidden_layers": layers}, decoder_config=decoder)
    return captioner(hf, 224, 50257), 224, 50257


def caption_all_calls(
    model: VitGpt2, images: torch.Tensor, beam: int, words: int
) -> list[Callable]:
    """`caption_all` of the images as arrays, without and with a look at the maps."""
    options = DecodingConfig(beam_size=beam, max_length=TOKENS, min_length=TOKENS)
    preprocessing = Preprocessing(size=images.shape[-1], mean=HALF, std=HALF)
    config = ModelConfig(family="vit_gpt2", preprocessing=preprocessing, decoding=options)
    bundle = Captioner(model, Numbers(words), config)  # type: ignore[arg-type]
    arrays = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in images]

    def with_maps() -> list[Any]:
        return [result.alphas for result in bundle.caption_all(arrays)]

    return [partial(bundle.caption_all, arrays), with_maps]


def decoding(
    model: VitGpt2, size: int, side: int, words: int, rounds: int, device: torch.device
) -> list[list[Any]]:
    """Rows: each way of ours against `generate` on the same pixels, in turn."""
    rows = []
    for count, beam in ((size, 5), (size, 1), (1, 5), (1, 1)):
        images = batch_for(count, side, words, device).images
        alone, theirs = searches(model, images, beam)
        same = sum(one == other for one, other in zip(alone(), theirs()))
        calls = {"decoding alone": alone}
        calls |= dict(
            zip(("`caption_all`", "and its maps"), caption_all_calls(model, images, beam, words))
        )
        *ours, reference = measure.in_turn([*calls.values(), theirs], rounds, device)
        for name, timing in zip(calls, ours):
            ratio = measure.ratio(reference.median, timing.median)
            what = f"{count} images, beam {beam}, {name}"
            rows.append([what, timing, reference, ratio, f"{same} of {count} captions equal"])
    return rows


def half(
    model: VitGpt2, size: int, side: int, words: int, rounds: int, device: torch.device
) -> list[Any]:
    """The row of weights in bfloat16 against `generate` in float32."""
    images = batch_for(size, side, words, device).images
    _, theirs = searches(model, images, 5)
    ours, _ = searches(copy.deepcopy(model).to(torch.bfloat16), images, 5)
    same = sum(one == other for one, other in zip(ours(), theirs()))
    timing, reference = measure.in_turn([ours, theirs], rounds, device)
    ratio = measure.ratio(reference.median, timing.median)
    what = f"{size} images, beam 5, decoding alone, bfloat16 against float32"
    return [what, timing, reference, ratio, f"{same} of {size} captions equal"]


def memory(side_of_pair: int, quick: bool, device: torch.device) -> Callable[[], Any]:
    """A search of beam 5, ours (0) or `generate` (1)."""
    model, side, words = of_size(quick, LAYERS)
    model = model.to(device)
    images = batch_for(2 if quick else 8, side, words, device).images
    return searches(model, images, 5)[side_of_pair]


def training(quick: bool, size: int, rounds: int, device: torch.device) -> list[list[Any]]:
    """Rows: the cross-attention alone from pixels and from cached features, and everything."""
    model, side, words = of_size(quick, TRAINED_LAYERS)
    model = model.to(device)
    pixels, rows = batch_for(size, side, words, device), []
    with torch.inference_mode():
        cached = pixels._replace(images=model.encode(pixels.images.to(device)).cpu().half())
    for what, trainable, features in (
        ("cross-attention alone", "cross_attention", None),
        ("cross-attention alone, ours from cached features", "cross_attention", cached),
        ("everything", "all", None),
    ):
        calls = steps(model, pixels, "float32", trainable, features)
        timing, reference = measure.in_turn(calls, rounds, device)
        ratio = measure.ratio(reference.median, timing.median)
        rows.append([what, timing, reference, ratio])
    return rows


def report(quick: bool, device: torch.device) -> str:
    """The tables."""
    size, rounds = (2, 2) if quick else (8, 3)
    model, side, words = of_size(quick, LAYERS)
    sizes = (model.to(device), size, side, words, rounds, device)
    rows = [*decoding(*sizes), half(*sizes)]
    peaks = [measure.peak_memory(memory, one, quick, device) for one in (0, 1)]
    trained = training(quick, 2 if quick else 16, 2, device)
    machine = measure.machine(device, measure.measure_peaks(device, quick))
    config = model.network.config
    layers = (config.encoder.num_hidden_layers, config.decoder.num_hidden_layers)
    return "\n\n".join(
        [
            f"## ViT + GPT-2\n\n{machine} Layers of the encoder {layers[0]}, of the decoder "
            f"{layers[1]}; captions of {TOKENS} tokens, {rounds} rounds in turn; median, "
            "lowest and highest.",
            measure.table(
                ("search", "ours", "`generate`", "ratio", "in float32 as `generate`'s"), rows
            ),
            f"Peak memory of beam 5 above what the process held before it: ours "
            f"{measure.megabytes(peaks[0])}, `generate` {measure.megabytes(peaks[1])}.",
            f"A training step of {2 if quick else 16} captions, "
            f"{'two' if quick else TRAINED_LAYERS} encoder layers:",
            measure.table(("learns", "ours", "`transformers`", "ratio"), trained),
        ]
    )


def main() -> None:
    flags = measure.options(__doc__).parse_args()
    print(report(flags.quick, measure.begin(flags)))


if __name__ == "__main__":
    main()
