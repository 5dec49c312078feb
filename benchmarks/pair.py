"""Our decoder and the reference with the same weights, and what they are given.

B captions or images, P regions, C cells, D features, T words.
"""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from benchmarks.floor import Sizes
from sat.config.training import TrainConfig
from sat.data.dataloader import Batch
from sat.models.decoder import DecoderWithAttention
from sat.models.show_attend_tell import ShowAttendTell
from sat.training.objectives.base import Objective
from sat.training.objectives.cross_entropy import CrossEntropyObjective
from sat.training.optim import optimizer_step
from sat.training.step_metrics import read_metrics

_path = Path(__file__).parents[1] / "tests" / "support" / "reference_decoder.py"
ReferenceDecoder = runpy.run_path(str(_path))["ReferenceDecoder"]

TUTORIAL = {"activation": "relu", "gate": "vector", "initial_state": "linear", "output": "linear"}
OURS = {"activation": "tanh", "gate": "vector", "initial_state": "tanh", "output": "deep"}
SMALL = Sizes(features=24, attention=16, embedding=12, hidden=16, vocabulary=60)
NATIVE = 64
"""cells of ResNet's own grid, 8×8 of a picture of 256×256"""
CLOCK = 0.1
"""what the cell that counts the words adds at each of them"""


def sizes_for(
    quick: bool, regions: int = 196, cells: int | None = None, deep: bool = False
) -> Sizes:
    """The sizes that everybody reports, or small ones; as many cells as regions unless given."""
    sizes = SMALL if quick else Sizes()
    return sizes._replace(regions=regions, cells=cells or regions, deep=deep)


def learn(
    model: ShowAttendTell, optimizer: Optimizer, batch: Batch, config: TrainConfig
) -> dict[str, float]:
    """One step of training by cross-entropy, as a stage makes it."""
    return step(CrossEntropyObjective(model, config, config.stage1), optimizer, batch, config)


def step(
    objective: Objective, optimizer: Optimizer, batch: Batch, config: TrainConfig
) -> dict[str, float]:
    """One step of training by an objective; its metrics are read on the CPU, as training does."""
    with objective.step(batch, 0) as loss:
        metrics = optimizer_step(optimizer, [batch], loss, config)
    metrics = objective.after_step(metrics)
    return metrics if metrics["gradient_norm"].is_cuda else next(read_metrics([metrics]))


def decoder(kind: type[nn.Module], sizes: Sizes, reading: dict[str, str]) -> Any:
    """A decoder of either kind with random weights, the same each time.

    Ours enlarges the grid it is given where there are to be more regions.
    """
    torch.manual_seed(1)
    ours = DecoderWithAttention(
        sizes.attention,
        sizes.embedding,
        sizes.hidden,
        sizes.vocabulary,
        sizes.features,
        encoded_image_size=None if sizes.cells == sizes.regions else math.isqrt(sizes.regions),
        **reading,
    )
    if kind is DecoderWithAttention:
        return ours
    reference = kind(
        sizes.attention,
        sizes.embedding,
        sizes.hidden,
        sizes.vocabulary,
        sizes.features,
        **reading,
    )
    reference.load_state_dict(ours.state_dict())
    return reference


def captioner(decoder: nn.Module, encoder: nn.Module | None = None) -> ShowAttendTell:
    """The decoder as a whole model; without an encoder, one that is given features."""
    words = decoder.embedding.num_embeddings
    ids = {"start_id": words - 2, "end_id": words - 1, "unk_id": words - 3, "pad_id": 0}
    return ShowAttendTell(encoder=encoder or nn.Identity(), decoder=decoder, **ids)


def random_features(images: int, sizes: Sizes, device: torch.device) -> Tensor:
    """float[B, C, D], not negative, as a network with a ReLU gives; each image is its own."""
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(images, 1, sizes.features, generator=generator)
    place = torch.randn(images, sizes.cells, sizes.features, generator=generator)
    return (image + 0.5 * place).relu().to(device)


def enlarged(features: Tensor, regions: int) -> Tensor:
    """float[B, P, D] of float[B, C, D], what the reference is given: a square grid pooled up, as
    the tutorial's encoder ends, where there are fewer cells than regions."""
    if features.shape[1] == regions:
        return features
    grid = features.transpose(1, 2).unflatten(2, (math.isqrt(features.shape[1]), -1))
    pooled = functional.adaptive_avg_pool2d(grid, math.isqrt(regions))
    return pooled.flatten(2).transpose(1, 2).contiguous()


def random_captions(
    number: int, vocabulary: int, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """int[B, T] and lengths int[B], start and end counted: COCO's 10.5 words, give or take 2.4.

    The longest first, as `CaptionBatchSampler` brings them.
    """
    generator = torch.Generator().manual_seed(3)
    if lengths is None:
        lengths = 10.5 + 2.4 * torch.randn(number, generator=generator)
        lengths = lengths.round().clamp(6, 20).long().sort(descending=True).values + 2
    captions = torch.randint(1, vocabulary - 3, (number, int(lengths.max())), generator=generator)
    captions[:, 0] = vocabulary - 2
    for line, length in zip(captions, lengths.tolist()):
        line[length - 1] = vocabulary - 1
        line[length:] = 0
    return captions, lengths


@torch.no_grad()
def teach_to_end(decoder: DecoderWithAttention, words: float = 9.5) -> None:
    """Make captions of a random decoder vary, and end after about so many words.

    One cell of the LSTM counts: it adds a constant at each word and forgets nothing. The end word
    listens to it alone; the other words' logits are spread as a trained decoder's are.
    """
    spread, hidden = 3.0, decoder.decode_step.hidden_size
    cell, end = decoder.decode_step, decoder.fc.out_features - 1
    for parts in (cell.weight_ih, cell.weight_hh, cell.bias_hh, cell.bias_ih):
        parts.unflatten(0, (4, hidden))[:, 0] = 0
    open_gate, step = 10.0, torch.atanh(torch.tensor(CLOCK)).item()
    cell.bias_ih.unflatten(0, (4, hidden))[:, 0] = torch.tensor(
        [open_gate, open_gate, step, open_gate], device=cell.bias_ih.device
    )
    for first in (decoder.init_h, decoder.init_c):
        first.weight[0], first.bias[0] = 0, 0
    cell.weight_ih *= 3  # so that hidden states differ from image to image ...
    decoder.embedding.weight *= 10  # ... and from word to word
    if decoder.output == "deep":
        decoder.embedding.weight[:, 0], decoder.context_out.weight[0] = 0, 0
        decoder.context_out.bias[0], decoder.hidden_out.bias[0] = 0, 0
        decoder.hidden_out.weight[0] = 0
        decoder.hidden_out.weight[0, 0] = 1
    typical = 0.65 if decoder.output == "deep" else 0.3  # of what the vocabulary layer reads
    wide = decoder.fc.weight.std() * decoder.fc.in_features**0.5
    decoder.fc.weight *= spread / (typical * wide)
    decoder.fc.weight[:, 0], decoder.fc.weight[end] = 0, 0

    def told(word: float) -> float:
        counted = torch.tanh(torch.tensor(CLOCK * word))
        return float(torch.tanh(counted) if decoder.output == "deep" else counted)

    slope = 0.4 * spread / (told(words + 1) - told(words))
    decoder.fc.weight[end, 0] = slope
    decoder.fc.bias[end] = 3 * spread - slope * told(words)
    decoder.fc.bias[[0, end - 1]] = -1e4  # <pad> and <start>: ours never says them
