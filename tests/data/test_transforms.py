"""Scale and normalize images against textbook formulas."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sat.config.model import Preprocessing
from sat.data.transforms import resize, visible_box
from sat.models.base import Normalize

ROOT = Path(__file__).parents[2]


def normalize(images: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    return Normalize(preprocessing.mean, preprocessing.std)(images)


def triangle_filter(pixels, size):
    """Textbook antialiased bilinear scaling of float[L, ...] to `size` along the first axis."""
    scale = len(pixels) / size
    places = np.arange(len(pixels)) + 0.5
    rows = []
    for i in range(size):
        weights = np.clip(1 - np.abs(places - (i + 0.5) * scale) / max(scale, 1), 0, None)
        rows.append(np.tensordot(weights / weights.sum(), pixels, 1))
    return np.stack(rows)


@pytest.mark.parametrize("size", [10, 24, 64])
def test_resize_squash_equals_textbook_antialiased_scaling(size):
    pixels = np.random.default_rng(0).integers(0, 256, (31, 53, 3), np.uint8)
    got = resize(Image.fromarray(pixels), Preprocessing(size=size))
    by_rows = triangle_filter(pixels.astype(float), size)
    expected = triangle_filter(by_rows.transpose(1, 0, 2), size).transpose(2, 1, 0)
    assert got.dtype == np.uint8
    assert got.shape == (3, size, size)
    assert np.abs(got - expected).max() <= 1.01  # Pillow rounds after each of the two passes


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (40, 40)])
def test_resize_crop_keeps_the_central_square(shape):
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    photo = Image.fromarray(pixels)
    got = resize(photo, Preprocessing(size=20, resize="crop"))
    halved = photo.resize((shape[1] // 2, shape[0] // 2), Image.Resampling.BILINEAR)
    left, top = (halved.width - 20) // 2, (halved.height - 20) // 2
    expected = np.asarray(halved.crop((left, top, left + 20, top + 20))).transpose(2, 0, 1)
    assert np.abs(got.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("shape", [(512, 700), (700, 512), (512, 512)])
def test_resize_inner_crop_equals_short_side_256_and_crop_224(shape):
    generator = np.random.default_rng(2)
    pixels = generator.integers(0, 256, (shape[0] // 4, shape[1] // 4, 3), np.uint8)
    photo = Image.fromarray(pixels.repeat(4, 0).repeat(4, 1))
    got = resize(photo, Preprocessing(size=224, resize="inner_crop"))
    scaled = photo.resize((shape[1] // 2, shape[0] // 2), Image.Resampling.BILINEAR)
    assert min(scaled.size) == 256
    left, top = (scaled.width - 224) // 2, (scaled.height - 224) // 2
    expected = np.asarray(scaled.crop((left, top, left + 224, top + 224))).transpose(2, 0, 1)
    assert np.abs(got.astype(int) - expected).max() <= 1


def test_resize_that_pads_fills_with_its_color_and_crops_with_black():
    photo = Image.new("RGB", (8, 4), (200, 100, 50))
    got = resize(photo, Preprocessing(size=6, resize="max_size=4,center_crop=4,pad=6:010203"))
    expected = np.full((3, 6, 6), np.reshape([1, 2, 3], (3, 1, 1)))
    expected[:, :4, :4] = 0
    expected[:, 1:3, :4] = np.reshape([200, 100, 50], (3, 1, 1))
    assert np.array_equal(got, expected)


def test_resize_of_another_mode_raises():
    with pytest.raises(ValueError, match="mode is L, not RGB: pass it through read_image"):
        resize(Image.new("L", (4, 4)), Preprocessing())


def test_visible_box_of_each_rule_is_the_part_resized():
    assert visible_box((60, 40), Preprocessing()) == (0, 0, 60, 40)
    crop = Preprocessing(resize="crop")
    assert visible_box((60, 40), crop) == (10, 0, 50, 40)
    box = visible_box((40, 61), crop)  # scaled to 256 x 390, the crop begins 67 below the top
    assert box == pytest.approx((0, 67 * 61 / 390, 40, (67 + 256) * 61 / 390))
    inner = Preprocessing(size=56, resize="inner_crop")
    assert visible_box((64, 80), inner) == (4, 12, 60, 68)
    padded = Preprocessing(size=20, resize="max_size=20,pad=20")
    assert visible_box((60, 30), padded) == (0, 0, 60, 60)
    beyond = Preprocessing(size=20, resize="center_crop=20")
    assert visible_box((10, 30), beyond) == (-5, 5, 15, 25)


def test_normalize_equals_the_formula_on_every_value():
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    got = normalize(values, Preprocessing())
    assert got.dtype == torch.float32
    for channel, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        expected = [(value / 255 - mean) / std for value in range(256)]
        assert torch.allclose(got[1, channel].flatten(), torch.tensor(expected), atol=1e-6)
    assert values[0, 0, 0, 5] == 5, "the pixels themselves must not change"


def test_normalize_of_floats_raises():
    pixels = torch.zeros(1, 3, 4, 4)
    with pytest.raises(
        TypeError, match=r"torch\.float32, not torch\.uint8.*must not be scaled twice"
    ):
        normalize(pixels, Preprocessing())


@pytest.mark.parametrize("shape", [(480, 640), (37, 1000), (224, 224), (100, 80)])
def test_resize_of_an_array_equals_pillow_within_one(shape):
    pixels = np.random.default_rng(3).integers(0, 256, (*shape, 3), np.uint8)
    got = resize(pixels, Preprocessing(size=224))
    photo = Image.fromarray(pixels)
    expected = np.asarray(photo.resize((224, 224), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(got.astype(int) - expected).max() <= 1
    assert np.array_equal(got, resize(photo, Preprocessing(size=224)))
    assert np.array_equal(got, expected) or shape != (224, 224)


def test_resize_of_a_whole_image_gives_no_warning():
    """Torch warns, once in a process, of arrays that it must not write to."""
    code = (
        "from PIL import Image; from sat.config.model import Preprocessing\n"
        "from sat.data.transforms import resize; resize(Image.new('RGB', (9, 7)), Preprocessing())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
