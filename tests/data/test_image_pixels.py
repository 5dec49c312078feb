"""The pixels that preparing reads, by simplejpeg where it may, are those of the photo."""

import numpy as np
import pytest
from PIL import Image, ImageOps
from quadrants import quadrants

from sat.data import image_files
from sat.data.image_files import read_image, read_image_array


@pytest.fixture
def simplejpegs(monkeypatch):
    """What simplejpeg did, one entry a call."""
    simplejpeg = pytest.importorskip("simplejpeg")
    calls, decode = [], simplejpeg.decode_jpeg

    def watched(data, **options):
        calls.append("asked")
        pixels = decode(data, **options)
        calls[-1] = "decoded"
        return pixels

    monkeypatch.setattr(simplejpeg, "decode_jpeg", watched)
    return calls


def test_read_image_array_of_a_jpeg_equals_read_image(tmp_path, simplejpegs):
    path = tmp_path / "photo.jpg"
    for options in ({}, {"subsampling": 0}, {"progressive": True, "quality": 30}):
        pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
        Image.fromarray(pixels).save(path, **options)
        assert np.array_equal(read_image_array(path), np.asarray(read_image(path)))
    assert simplejpegs == ["decoded"] * 3


@pytest.mark.parametrize("kind", ["turned", "grey", "cmyk", "png", "ends too early", "no photo"])
def test_read_image_array_of_an_unusual_file_falls_back_to_pillow(tmp_path, simplejpegs, kind):
    path, photo = tmp_path / "photo.jpg", quadrants()
    exif = photo.getexif()
    exif[0x0112] = 6 if kind == "turned" else 1
    modes = {"grey": "L", "cmyk": "CMYK"}
    photo = photo.convert(modes.get(kind, "RGB"))
    photo.save(path, format="png" if kind == "png" else "jpeg", exif=exif)
    if kind in ("ends too early", "no photo"):
        path.write_bytes(path.read_bytes()[: 500 if kind == "ends too early" else 2])
        with pytest.raises(ValueError, match=r"photo.jpg: cannot be read as an image"):
            read_image_array(path)
    else:
        assert np.array_equal(read_image_array(path), np.asarray(read_image(path)))
    assert "decoded" not in simplejpegs


def test_read_image_array_without_simplejpeg_uses_pillow(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "simplejpeg", None)
    quadrants().save(tmp_path / "photo.jpg")
    pixels = read_image_array(tmp_path / "photo.jpg")
    assert np.array_equal(pixels, np.asarray(read_image(tmp_path / "photo.jpg")))
    assert pixels.flags.writeable  # torch asks for it


@pytest.mark.parametrize("broken", ["getexif", "exif_transpose"])
@pytest.mark.parametrize("read", [read_image, read_image_array])
def test_read_image_with_damaged_exif_logs_it_once(tmp_path, monkeypatch, caplog, read, broken):
    """It is told once, whether the tag cannot be read or the photo not be turned by it."""
    path, photo = tmp_path / "photo.jpg", quadrants()
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(path, exif=exif)

    def fail(*given):
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(Image.Image if broken == "getexif" else ImageOps, broken, fail)
    assert np.asarray(read(path)).shape == (32, 48, 3)
    assert caplog.text.count("photo.jpg: EXIF data cannot be read (not a TIFF file)") == 1
