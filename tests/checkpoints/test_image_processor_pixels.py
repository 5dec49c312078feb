"""Pixels of a folder are those of its own image processor, whatever its settings."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize as resize_tensor
from transformers import AutoImageProcessor

from sat.config.model import Preprocessing
from sat.data.transforms import resize, visible_box
from sat.models.base import Normalize
from sat.models.hf_pixels import PROCESSOR, preprocessing_of, processor_values


def knows_lanczos() -> bool:
    """True where torchvision, which transformers resizes with, does so by Lanczos' filter."""
    try:
        resize_tensor(torch.zeros(3, 4, 4, dtype=torch.uint8), [2, 2], InterpolationMode.LANCZOS)
    except (NotImplementedError, ValueError):
        return False
    return True


LANCZOS = 1 if knows_lanczos() else 2
KINDS = ("ViT", "DeiT", "Beit", "CLIP", "ChineseCLIP", "Bit", "Blip", "Siglip")


def random_settings(draw: random.Random) -> dict[str, Any]:
    """Settings of a processor whose images are all squares of one size."""
    side, other = draw.randint(8, 40), draw.randint(8, 60)
    square = {"height": side, "width": side}
    values: dict[str, Any] = {
        "image_processor_type": f"{draw.choice(KINDS)}ImageProcessor",
        "resample": draw.choice([0, LANCZOS, 2, 3]),
        "do_resize": True,
        "do_center_crop": False,
        "do_normalize": draw.random() < 0.8,
        "do_rescale": draw.random() < 0.8,
        "rescale_factor": draw.choice([1 / 255, 1 / 127.5, 1.0]),
        "image_mean": [draw.uniform(0.2, 0.6) for _ in range(3)],
        "image_std": [draw.uniform(0.2, 0.6) for _ in range(3)],
    }
    crop = {"do_center_crop": True, "crop_size": square}
    rule = draw.choice(["size", "size_crop", "shortest", "longest", "crop", "pad", "crop_pad"])
    if rule == "size":
        return values | {"size": square}
    if rule == "size_crop":
        return values | crop | {"size": {"height": other, "width": draw.randint(8, 60)}}
    if rule == "shortest":
        return values | crop | {"size": {"shortest_edge": other}}
    if rule == "longest":
        longest = other + draw.randint(1, 30)
        return values | crop | {"size": {"shortest_edge": other, "longest_edge": longest}}
    if rule == "crop":
        return values | crop | {"do_resize": False}
    pad: dict[str, Any] = {
        "do_pad": True,
        "pad_size": square,
        "image_processor_type": "ViTImageProcessor",
    }
    pad |= {"size": {"max_height": side, "max_width": side}, "rescale_factor": 1 / 255}
    if rule == "crop_pad":
        low = {"height": draw.randint(4, side), "width": draw.randint(4, side)}
        pad |= {"do_center_crop": True, "crop_size": low}
    return values | pad | {"do_rescale": True}


def random_image(draw: random.Random) -> Image.Image:
    width, height = draw.randint(12, 90), draw.randint(12, 90)
    if draw.random() < 0.2:
        height = width
    generator = np.random.default_rng(draw.randrange(2**32))
    pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def in_grey_levels(pixels: torch.Tensor, values: dict[str, Any]) -> torch.Tensor:
    """The levels 0..255 from which normalization made these values."""
    if values["do_normalize"]:
        mean, std = (torch.tensor(values[f"image_{name}"]) for name in ("mean", "std"))
        pixels = pixels * std.view(3, 1, 1) + mean.view(3, 1, 1)
    return pixels / values["rescale_factor"] if values["do_rescale"] else pixels


def ours(image: Image.Image, preprocessing: Preprocessing) -> torch.Tensor:
    pixels = torch.from_numpy(resize(image, preprocessing))[None]
    return Normalize(preprocessing.mean, preprocessing.std)(pixels)


def processed(folder: Path, values: dict[str, Any], image: Image.Image) -> torch.Tensor:
    """float[1, 3, S, S] of Hugging Face's processor with these settings, its file in `folder`."""
    (folder / PROCESSOR).write_text(json.dumps(values))
    processor = AutoImageProcessor.from_pretrained(folder)
    pixels: torch.Tensor = processor(image, return_tensors="pt").pixel_values
    return pixels.float()


def check_case(seed: int, folder: Path) -> None:
    draw = random.Random(seed)
    values, image = random_settings(draw), random_image(draw)
    theirs = processed(folder, values, image)
    found = preprocessing_of(str(folder))
    mine = ours(image, found)
    assert mine.shape == theirs.shape, (seed, values)
    difference = in_grey_levels(mine, values) - in_grey_levels(theirs, values)
    assert difference.abs().max() <= 1.01, (seed, values, image.size)
    written = processor_values(found)
    again = processed(folder, written, image)
    difference = in_grey_levels(again, written) - in_grey_levels(mine, written)
    assert difference.abs().max() <= 1.01, (seed, written, image.size)
    assert preprocessing_of(str(folder)).resize == found.resize


def test_pixels_of_random_settings_equal_the_image_processor(tmp_path):
    for seed in range(30):
        check_case(seed, tmp_path)


@pytest.mark.slow
def test_pixels_of_400_random_settings_equal_the_image_processor(tmp_path):
    for seed in range(100, 500):
        check_case(seed, tmp_path)


@pytest.mark.parametrize("kind", ["Levit", "Donut", "Unknown"])
def test_preprocessing_of_another_kind_of_processor_raises_with_its_name(kind, tmp_path):
    (tmp_path / PROCESSOR).write_text(json.dumps({"image_processor_type": f"{kind}ImageProcessor"}))
    with pytest.raises(
        ValueError, match=f"image_processor_type is {kind}(ImageProcessor)?: give one of ViT, DeiT"
    ):
        preprocessing_of(str(tmp_path))


SQUARE = {"height": 8, "width": 8}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": {"shortest_edge": 8}}, "size is shortest_edge=8: images must all become one"),
        ({"size": {"height": 8, "width": 9}}, "size is size=8x9: images must all become one"),
        ({"size": SQUARE, "resample": 4}, "resample is 4: give 0 .nearest., 1 .lanczos."),
        ({"size": SQUARE, "do_flip_channel_order": True}, "do_flip_channel_order is True: sat has"),
        (
            {"do_pad": True, "pad_size": SQUARE, "size": SQUARE, "image_mean": [1.5] * 3},
            "do_pad is True: no pixel has the value of the mean",
        ),
    ],
)
def test_preprocessing_of_a_setting_without_counterpart_raises(settings, message, tmp_path):
    values = {"image_processor_type": "ViTImageProcessor"} | settings
    (tmp_path / PROCESSOR).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        preprocessing_of(str(tmp_path))


def test_preprocessing_of_a_file_that_names_no_kind_is_that_of_vit(tmp_path):
    (tmp_path / PROCESSOR).write_text(json.dumps({"size": 24, "image_mean": [0.5] * 3}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vision-encoder-decoder"}))
    found = preprocessing_of(str(tmp_path))
    assert (found.size, found.resize, found.mean) == (24, "squash", (0.5, 0.5, 0.5))


def test_resize_of_a_very_narrow_image_computes_the_part_that_is_seen():
    pixels = np.random.default_rng(5).integers(0, 256, (2, 20000, 3), dtype=np.uint8)
    preprocessing = Preprocessing(size=256, resize="shortest_edge=256:bicubic,center_crop=256")
    got = resize(pixels, preprocessing)
    middle = np.s_[:, 9990:10010]  # as wide as a scale of 128 and the crop need
    whole = resize(np.ascontiguousarray(pixels[middle]), preprocessing)
    assert np.abs(got.astype(int) - whole).max() <= 16  # Pillow clips between its passes
    left, top, right, bottom = visible_box((20000, 2), preprocessing)
    assert (left, top, right, bottom) == (9999, 0, 10001, 2)
