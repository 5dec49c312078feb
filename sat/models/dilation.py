"""A finer grid of the same weights: dilation in place of a backbone's last strides.

Known as the algorithm "à trous" (Chen et al. 2015, "DeepLab"): a convolution of stride 2 that moves
by 1 instead gives twice the cells a side, and the convolutions after it look 2 cells apart, so that
each sees what it was trained to see.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sat.models.efficientnet_lite import SamePadding

PROBE_SIDE = 128


@torch.no_grad()
def dilate(blocks: Sequence[nn.Module], output_stride: int) -> None:
    """Let the grid have cells of `output_stride` pixels a side, in place.

    Raises `ValueError` where the strides beyond it are not those of convolutions alone, or where
    blocks take grids of one size alone.
    """
    finest = PROBE_SIDE // output_stride
    try:
        side = _dilate_beyond(blocks, finest)
    except (RuntimeError, AssertionError) as error:  # MaxViT's windows, a ResNet-D's shortcuts
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"output_stride is {output_stride}: this backbone takes no other grid ({reason}); "
            "leave it out, or choose another"
        ) from error
    if side != finest:
        raise ValueError(
            f"output_stride is {output_stride}: this backbone has cells of "
            f"{PROBE_SIDE / side:g} pixels a side; leave it out, or choose another"
        )


def _dilate_beyond(blocks: Sequence[nn.Module], finest: int) -> int:
    """Dilate blocks so that no grid has less than `finest` cells a side; return the last one's."""
    grid, dilation = torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE), 1
    for block in blocks:
        after = block.eval()(grid)
        factor = 1 if after.shape[-1] >= finest else round(grid.shape[-1] / after.shape[-1])
        if dilation * factor > 1:
            _dilate(block, dilation, factor)
            dilation, after = dilation * factor, block(grid)
        grid = after
    return grid.shape[-1]


def _dilate(block: nn.Module, dilation: int, factor: int) -> None:
    """Make the block's strides 1; its convolutions after the first of them look further apart."""
    before = dilation
    for module in block.modules():
        if isinstance(module, SamePadding):
            module.stride, module.kernel = 1, (module.kernel - 1) * before + 1
        if not isinstance(module, nn.Conv2d):
            continue
        strided = max(module.stride) > 1
        apart = before if strided else dilation
        if apart > 1 and max(module.kernel_size) > 1:
            height, width = module.kernel_size
            module.dilation = (apart, apart)
            if module.padding != (0, 0):
                module.padding = (height // 2 * apart, width // 2 * apart)
        if strided:
            module.stride, dilation = (1, 1), before * factor
