"""Pictures are made in parallel, written in order, and never pile up."""

import errno
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from PIL import Image

from sat.config.model import Preprocessing
from sat.data.image_files import read_image
from sat.data.image_writer import in_order, write_images
from sat.data.transforms import resize

PREPROCESSING = Preprocessing(size=16, resize="crop")


@pytest.fixture
def photos(tmp_path):
    """Twelve photos of random pixels and sizes."""
    generator, paths = np.random.default_rng(0), []
    for i in range(12):
        width, height = generator.integers(20, 60, 2)
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8)).save(paths[-1])
    return paths


@pytest.mark.parametrize("workers", [1, 4])
def test_in_order_with_uneven_work_keeps_the_order(workers):
    def work(item):
        time.sleep(random.Random(item).random() / 200)
        return item * 10

    assert list(in_order(work, range(30), workers)) == [i * 10 for i in range(30)]


def test_in_order_workers_run_at_the_same_time():
    meeting = threading.Barrier(3)  # nobody gets on before all three are at work

    def work(item):
        meeting.wait(timeout=10)
        return item

    assert list(in_order(work, range(9), workers=3)) == list(range(9))


def test_in_order_with_a_slow_consumer_holds_two_items_per_worker():
    begun = 0

    def items():
        nonlocal begun
        for item in range(100):
            begun += 1
            yield item

    ahead = []
    for done, _ in enumerate(in_order(lambda item: item, items(), workers=3)):
        time.sleep(0.001)
        ahead.append(begun - done)
    assert max(ahead) == 6


def test_in_order_after_an_error_drops_waiting_work(monkeypatch):
    done, ending, shutdown = [], threading.Event(), ThreadPoolExecutor.shutdown

    def work(item):
        if item == 0:
            raise ValueError("broken")
        ending.wait(60)
        done.append(item)

    def end(pool, **how):
        ending.set()
        shutdown(pool, **how)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", end)
    with pytest.raises(ValueError, match="broken"):
        list(in_order(work, range(1000), workers=8))
    assert len(done) <= 8, "16 were taken, 8 of them waited in line"


def test_write_images_file_has_the_tutorials_layout(tmp_path, photos):
    path = tmp_path / "pictures.hdf5"
    sizes = write_images(path, photos, PREPROCESSING, captions_per_image=5)
    with h5py.File(path) as file:
        assert list(file) == ["images"]
        images = file["images"]
        assert (images.dtype, images.shape) == (np.uint8, (12, 3, 16, 16))
        assert (images.chunks, images.compression, dict(images.attrs)) == (None, None, {})
        assert file.attrs["captions_per_image"].dtype == np.int64
        assert dict(file.attrs) == {"captions_per_image": 5, "resize": "crop"}
        for i, photo in enumerate(map(read_image, photos)):
            assert np.array_equal(images[i], resize(photo, PREPROCESSING))
            assert sizes[i] == photo.size


def test_write_images_with_skip_bad_leaves_out_and_logs(tmp_path, photos, caplog):
    photos[3].write_bytes(photos[3].read_bytes()[:200])
    photos[11].unlink()
    path = tmp_path / "pictures.hdf5"
    sizes = write_images(path, photos, PREPROCESSING, captions_per_image=5, skip_bad=True)
    assert [i for i, size in enumerate(sizes) if size is None] == [3, 11]
    kept = [photo for i, photo in enumerate(photos) if i not in (3, 11)]
    with h5py.File(path) as file:
        expected = [resize(read_image(photo), PREPROCESSING) for photo in kept]
        assert np.array_equal(file["images"][:], np.stack(expected))
    assert f"skipped: {photos[3]}: cannot be read as an image" in caplog.text
    assert f"skipped: {photos[11]}: there is no such image" in caplog.text


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system reserves no space")
@pytest.mark.parametrize("skip_bad", [False, True])
def test_write_images_reserves_the_disk_and_leaves_the_same_bytes(
    tmp_path, photos, monkeypatch, skip_bad
):
    one, other = tmp_path / "a.hdf5", tmp_path / "b.hdf5"
    how = {"captions_per_image": 5, "skip_bad": skip_bad}
    write_images(one, photos * 20, PREPROCESSING, **how)
    reserved = []
    monkeypatch.setattr(os, "posix_fallocate", lambda file, start, size: reserved.append(size))
    write_images(other, photos * 20, PREPROCESSING, **how)
    assert one.read_bytes() == other.read_bytes()
    assert reserved[0] >= one.stat().st_size

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        write_images(other, photos, PREPROCESSING, progress=pytest.fail, **how)


def test_write_images_of_a_bad_image_raises_with_the_remedy(tmp_path, photos):
    for i in (3, 5):
        photos[i].write_bytes(b"no photo")
    told = r"3\.png: cannot be read as an image .*; repair it, or .* --on_bad_image skip"
    with pytest.raises(ValueError, match=told):
        write_images(tmp_path / "pictures.hdf5", photos, PREPROCESSING, captions_per_image=5)
    photos[2].unlink()
    with pytest.raises(
        FileNotFoundError, match=r"2\.png: there is no such image.*--on_bad_image skip"
    ):
        write_images(tmp_path / "pictures.hdf5", photos, PREPROCESSING, captions_per_image=5)
