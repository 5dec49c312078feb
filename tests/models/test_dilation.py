"""Dilation in place of strides: a finer grid of the same weights."""

import pytest
import torch
from torch.nn import functional

from sat.models.encoder import Encoder


@pytest.mark.parametrize(
    "backbone", ["resnet18", "efficientnet_lite0", "mobilenet_v3_small", "shufflenet_v2_x0_5"]
)
def test_every_second_cell_of_the_finer_grid_is_the_coarse_grids(backbone):
    torch.manual_seed(0)
    coarse = Encoder(None, backbone=backbone, weights="none").eval()
    fine = Encoder(None, backbone=backbone, weights="none", output_stride=16).eval()
    fine.load_state_dict(coarse.state_dict())
    images = functional.avg_pool2d(torch.randn(1, 3, 256, 256), 5, 1, 2)
    with torch.no_grad():
        expected, grid = coarse(images), fine(images)
    assert grid.shape[1:3] == (16, 16)
    assert expected.shape[1:3] == (8, 8)
    inner = slice(3, -3)  # at the edge, padding stands elsewhere
    distances = [
        (grid[:, i::2, j::2][:, inner, inner] - expected[:, inner, inner]).abs().max()
        for i in (0, 1)
        for j in (0, 1)
    ]
    assert min(distances) <= 1e-4 * expected.abs().max()


def test_stride_that_is_no_convolutions_is_refused():
    with pytest.raises(ValueError, match="output_stride is 16: this backbone has cells of 32"):
        Encoder(None, backbone="vgg11", weights="none", output_stride=16)


@pytest.mark.parametrize(
    "backbone", ["maxvit_t", "timm:maxvit_pico_rw_256", "timm:resnet10t"], ids=str
)
def test_output_stride_of_fixed_windows_or_pooled_shortcuts_raises_value_error(backbone):
    if backbone.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(ValueError, match="output_stride is 16: this backbone takes no other grid"):
        Encoder(None, backbone=backbone, weights="none", output_stride=16)


def test_native_stride_changes_nothing():
    encoder = Encoder(None, backbone="resnet18", weights="none", output_stride=32)
    strides = [m.stride for m in encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    plain = Encoder(None, backbone="resnet18", weights="none")
    assert strides == [m.stride for m in plain.modules() if isinstance(m, torch.nn.Conv2d)]
