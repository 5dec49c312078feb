"""The interface that training, evaluation and captioning ask of a captioner of either family.

B images, N rows (beams of images), P regions, D features, T words, V vocabulary, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sat.config.training import StageConfig
from sat.device import keep_random_state


class Output(NamedTuple):
    """Teacher-forced predictions; rows past a caption's length are zero maps and void logits."""

    logits: Tensor  # float[B, T-1, V]
    alphas: Tensor | None  # float[B, T-1, P]; None where they were not asked for
    locations: Tensor | None = None  # float[B, T-1, P], one-hot; None for the expected context


class FrozenPart(NamedTuple):
    """The part of an encoder that does not learn, and its output for images."""

    module: nn.Module
    encode: Callable[[Tensor], Tensor]  # uint8[B, 3, S, S] -> features or activations


class CaptionModel(Protocol):
    """A captioner network: images in, words out, one step at a time."""

    training: bool
    start_id: int
    end_id: int
    pad_id: int

    @property
    def unk_id(self) -> int | None: ...
    @property
    def encoder(self) -> nn.Module: ...
    @property
    def positions(self) -> int | None:
        """The most tokens that a caption may have, the start included; None where any fits."""

    @property
    def samples_attention(self) -> bool:
        """True where captioning samples a region for each word."""

    @property
    def baseline(self) -> Tensor | None:
        """Moving average of log p(word) that hard attention's reward is measured against."""

    def encode(self, images: Tensor) -> Tensor:
        """Features float[B, P, D] of pixels uint8[B, 3, S, S], or of normalized float images."""

    def encode_cached(self, cached: Tensor) -> Tensor:
        """Features float[B, P, D] from the stored output of the frozen part."""

    def start(self, features: Tensor) -> Any:
        """The state before the first word of each of B images."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits float[N, V] of the word after tokens int[N], and the next state."""

    def reorder(self, state: Any, index: Tensor) -> Any:
        """The state whose row i is row index[i] of this one; `index` int[N] is on the host."""

    def __call__(
        self, features: Tensor, captions: Tensor, lengths: Tensor, *, output_attentions: bool = True
    ) -> Output:
        """The unrolled `step` over captions int[B, T] of `lengths` int[B].

        Without `output_attentions` there may be no maps.
        """

    def set_trainable(self, stage: StageConfig, *, embeddings: bool) -> None:
        """Let the parts learn that the stage names, and freeze the others."""

    def compile_training(self) -> None:
        """Let torch.compile turn the small operations of a training step into few kernels."""

    def frozen_part(self) -> FrozenPart | None:
        """The encoder, or its blocks before the first that learns; None where all of it learns."""

    def set_attention_mode(self, mode: str) -> None:
        """Choose the context used for captioning; `ValueError` where there is no choice."""

    def shared_attention_mode(self) -> AbstractContextManager[None]:
        """A block in which all forward passes use one draw between soft and hard attention."""

    def parameters(self) -> Iterator[nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state_dict: Any) -> Any: ...
    def train(self, mode: bool = True) -> Any: ...
    def eval(self) -> Any: ...
    def to(self, device: Any) -> Any: ...


class Normalize(nn.Module):
    """Images float[B, 3, S, S] as the encoder was trained on, from pixels uint8[B, 3, S, S].

    Mean and standard deviation (RGB, of values in 0..1) travel with the model, but not in its
    weights: the config holds them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Raises `TypeError` for anything but uint8: pixels must not be scaled twice."""
        if images.dtype != torch.uint8:
            raise TypeError(
                f"images are {images.dtype}, not torch.uint8: pass the pixels (0 to 255) as they "
                "were read, they are scaled here and must not be scaled twice"
            )
        mean, std = self.mean.float(), self.std.float()
        return images.to(torch.float32).div_(255).sub_(mean).div_(std).to(self.mean.dtype)


def device_of(model: CaptionModel | nn.Module) -> torch.device:
    return next(model.parameters()).device


@contextmanager
def seeded_attention(model: CaptionModel, seed: int) -> Iterator[None]:
    """A block in which regions are sampled from `seed`; torch's generators are then as before."""
    if not model.samples_attention:
        yield
        return
    with keep_random_state(device_of(model)):
        torch.manual_seed(seed)
        yield


def encode_batch(model: CaptionModel, images: Tensor) -> Tensor:
    """Features float[B, P, D] of a batch of pixels, or of cached features or activations."""
    images = images.to(device_of(model), non_blocking=True)
    return model.encode(images) if images.dtype == torch.uint8 else model.encode_cached(images)
