"""Photos of every kind, made with known colours, come back as RGB; broken ones are named."""

import io
import os

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from quadrants import BLUE, GREEN, GREY, RED, quadrants

from sat.data.image_files import find_images, read_image, read_image_array
from sat.data.image_sources import SAMPLES


def corners(photo):
    """The colours in the middle of the four quadrants, row by row."""
    columns, rows = (
        (photo.width // 4, photo.width * 3 // 4),
        (photo.height // 4, photo.height * 3 // 4),
    )
    return [photo.getpixel((x, y)) for y in rows for x in columns]


def reopened(image, tmp_path, suffix, **options):
    path = tmp_path / f"photo{suffix}"
    image.save(path, **options)
    return read_image(path)


def assert_close(photo, expected, tolerance=0):
    assert photo.mode == "RGB"
    assert np.abs(np.array(corners(photo)) - np.array(expected)).max() <= tolerance, corners(photo)


def luma(colour):
    return (round(0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]),) * 3


COLOURS = [RED, GREEN, BLUE, GREY]
GREYS = [luma(colour) for colour in COLOURS]


@pytest.mark.parametrize(
    ("mode", "suffix", "options", "expected", "tolerance"),
    [
        ("RGB", ".png", {}, COLOURS, 0),
        ("RGB", ".jpg", {"quality": 95, "subsampling": 0}, COLOURS, 4),
        ("L", ".png", {}, GREYS, 1),
        ("P", ".gif", {}, COLOURS, 51),  # Pillow's web palette
        ("RGBA", ".png", {}, COLOURS, 0),
        ("LA", ".png", {}, GREYS, 1),
        ("CMYK", ".tif", {}, COLOURS, 1),
        ("CMYK", ".jpg", {"quality": 95}, COLOURS, 6),  # Adobe: stored inverted
        ("YCbCr", ".tif", {"compression": "tiff_lzw"}, COLOURS, 3),  # raw: Pillow 13 and later
    ],
)
def test_read_image_of_any_mode_keeps_colors(tmp_path, mode, suffix, options, expected, tolerance):
    photo = reopened(quadrants().convert(mode), tmp_path, suffix, **options)
    assert photo.size == (48, 32)
    assert_close(photo, expected, tolerance)


def test_read_image_of_black_and_white_is_rgb(tmp_path):
    mask = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8).repeat(8, 0).repeat(8, 1))
    photo = reopened(mask.convert("1"), tmp_path, ".png")
    assert corners(photo) == [(0, 0, 0), (255, 255, 255), (255, 255, 255), (0, 0, 0)]


def test_read_image_with_alpha_lies_over_white(tmp_path):
    image = quadrants().convert("RGBA")
    alpha = Image.fromarray(np.array([[0, 255], [128, 255]], np.uint8).repeat(16, 0).repeat(24, 1))
    image.putalpha(alpha)
    half_blue = tuple(round((128 * value + 127 * 255) / 255) for value in BLUE)
    assert_close(reopened(image, tmp_path, ".png"), [(255, 255, 255), GREEN, half_blue, GREY], 1)


def test_read_image_with_transparent_palette_color_lies_over_white(tmp_path):
    image = quadrants().quantize(4)
    image.info["transparency"] = image.getpixel((0, 0))
    photo = reopened(image, tmp_path, ".png", transparency=image.getpixel((0, 0)))
    assert_close(photo, [(255, 255, 255), GREEN, BLUE, GREY])


def test_read_image_with_transparent_rgb_color_lies_over_white(tmp_path):
    photo = reopened(quadrants(), tmp_path, ".png", transparency=RED)
    assert_close(photo, [(255, 255, 255), GREEN, BLUE, GREY])


def levels(values, dtype):
    return np.array(values, dtype).reshape(2, 2).repeat(8, 0).repeat(8, 1)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_read_image_of_sixteen_bits_is_scaled(tmp_path, suffix):
    image = Image.fromarray(levels([0, 257 * 80, 257 * 200 + 100, 65535], np.uint16))
    assert image.mode == "I;16"
    photo = reopened(image, tmp_path, suffix)
    assert [colour[0] for colour in corners(photo)] == [0, 80, 200, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 80, 200, 255], [0, 80, 200, 255]),
        ([0, 257 * 80, 257 * 200, 65535], [0, 80, 200, 255]),
        ([-1000, 0, 99_000, 1000], [0, 3, 255, 5]),  # no usual range: darkest to brightest
        ([70_000] * 4, [0] * 4),
    ],
)
def test_read_image_of_integers_is_scaled_by_the_usual_range(tmp_path, values, expected):
    photo = reopened(Image.fromarray(levels(values, np.int32)), tmp_path, ".tif")
    assert [colour[0] for colour in corners(photo)] == expected


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_read_image_of_floats_is_scaled_by_the_usual_range(tmp_path, white):
    values = [0, white * 80 / 255, white * 200 / 255, white]
    photo = reopened(Image.fromarray(levels(values, np.float32)), tmp_path, ".tif")
    assert [colour[0] for colour in corners(photo)] == [0, 80, 200, 255]


def test_read_image_of_floats_with_nan_raises(tmp_path):
    with pytest.raises(ValueError, match=r"photo\.tif: cannot be read as an image .* not finite"):
        reopened(Image.fromarray(levels([0, 1, np.nan, 1], np.float32)), tmp_path, ".tif")


STORED = {  # what a camera stores for each EXIF orientation (TIFF 6.0: place of row 0, column 0)
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_read_image_with_exif_orientation_is_upright(tmp_path, orientation):
    stored = np.ascontiguousarray(STORED[orientation](np.asarray(quadrants())))
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = reopened(
        Image.fromarray(stored), tmp_path, ".jpg", exif=exif, quality=95, subsampling=0
    )
    assert photo.size == (48, 32)
    assert_close(photo, COLOURS, 4)


def test_read_image_of_png_with_damaged_exif_is_read(tmp_path, caplog):
    path = tmp_path / "photo.png"
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n      6\nzzzzzz")
    quadrants().save(path, pnginfo=text)
    assert_close(read_image(path), COLOURS)
    assert "photo.png: EXIF data cannot be read" in caplog.text


def test_read_image_of_an_open_image_leaves_it_unchanged():
    image = quadrants().convert("L")
    assert_close(read_image(image), GREYS, 1)
    assert image.mode == "L"


def broken(kind):
    data = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(data, kind)
    return data.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>404 not found</html>", id="not an image"),
        pytest.param(broken("JPEG")[:1500], id="truncated jpeg"),
        pytest.param(broken("PNG")[:2000], id="truncated png"),
        pytest.param(broken("GIF")[:500], id="truncated gif"),
        pytest.param(broken("TIFF")[:100], id="truncated tiff"),
        pytest.param(broken("PNG")[:200] + bytes(300) + broken("PNG")[500:], id="damaged png"),
    ],
)
def test_read_image_of_a_broken_file_raises_with_its_name(tmp_path, content):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: cannot be read as an image (")


def test_read_image_of_a_folder_or_missing_file_raises(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be read as an image \(IsADirectoryError\)"):
        read_image(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.jpg: there is no such image; check"):
        read_image(tmp_path / "none.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
@pytest.mark.parametrize("read", [read_image, read_image_array])
def test_read_image_of_a_pipe_raises_and_does_not_wait(tmp_path, read):
    os.mkfifo(tmp_path / "photo.png")
    with pytest.raises(ValueError, match=r"photo\.png: cannot be .* it is a pipe, which may"):
        read(tmp_path / "photo.png")


def test_read_image_of_a_samples_name_is_the_sample_unless_there_is_such_a_file(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO"):
        assert read_image("cat.jpg").size == read_image(SAMPLES / "cat.jpg").size
    assert caplog.messages == ["cat.jpg is not there: the sample image of that name is taken"]
    Image.new("RGB", (5, 4)).save("cat.jpg")
    assert read_image("cat.jpg").size == (5, 4)


def test_read_image_of_a_kind_that_starts_another_program_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(ValueError, match=r"a\.jpg: cannot be read as an image"):
        read_image(tmp_path / "a.jpg")


def test_read_image_of_too_many_megapixels_is_refused_unless_allowed(tmp_path):
    Image.new("L", (2000, 1000)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="has 2 megapixels, more than 1: shrink it"):
        read_image(tmp_path / "a.png", max_megapixels=1)
    with pytest.raises(ValueError, match=r"has 2 megapixels, more than 1\.9999: shrink it"):
        read_image(tmp_path / "a.png", max_megapixels=1.9999)
    assert read_image(tmp_path / "a.png", max_megapixels=2).size == (2000, 1000)


@pytest.mark.parametrize(
    ("size", "limit", "told"),
    [
        ((30, 20), 0.0001, r"has 0\.0006 megapixels, more than 0\.0001"),
        ((1000, 621), 0.62, r"has 0\.621 megapixels, more than 0\.62"),
        ((1001, 1000), 1, r"has 1\.001 megapixels, more than 1"),
    ],
)
def test_read_image_of_too_many_megapixels_tells_a_number_above_the_limit(size, limit, told):
    with pytest.raises(ValueError, match=f"{told}: shrink it"):
        read_image(Image.new("L", size), max_megapixels=limit)


def test_find_images_in_a_folder_names_what_it_skips(tmp_path, caplog):
    for name in ("a.jfif", "b.JPE", "._a.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    with caplog.at_level("INFO"):
        assert [path.name for path in find_images([str(tmp_path)])] == ["a.jfif", "b.JPE"]
    assert "skipped: ._a.jpg, notes.txt" in caplog.text
