"""Images with captions beside them: text files, and webdataset's tar files."""

import io
import json
import tarfile

import pytest
from annotation_files import raw_by_name, read, touch


def test_text_files_beside_images_give_a_caption_a_line(tmp_path, caplog):
    touch(tmp_path, "train/1.jpg", "train/2.PNG", "val/1.jpg", "val/3.jpg", ".hidden/.4.jpg")
    (tmp_path / "train" / "1.txt").write_bytes("\ufeffA dog .\r\n\r\nZwei Hünde\r\n".encode())
    (tmp_path / "train" / "2.txt").write_text("A cat")
    (tmp_path / "val" / "1.txt").write_text("A cow\n")
    (tmp_path / "notes.txt").write_text("not a caption")
    found = read(tmp_path)
    assert [(record.image_id, record.split, record.raw) for record in found] == [
        ("train/1.jpg", "train", ("A dog .", "Zwei Hünde")),
        ("train/2.PNG", "train", ("A cat",)),
        ("val/1.jpg", "val", ("A cow",)),
    ]
    assert found[0].path == tmp_path / "train" / "1.jpg"
    assert "1 images without a caption are left out" in caplog.text


def test_text_files_in_linked_folders_are_read_once(tmp_path):
    touch(tmp_path / "real", "1.jpg", "deep/2.jpg")
    for name in ("1", "deep/2"):
        (tmp_path / "real" / f"{name}.txt").write_text("A dog")
    folder = touch(tmp_path / "set", "val/3.jpg")
    (folder / "val" / "3.txt").write_text("A cat")
    (folder / "train").symlink_to(tmp_path / "real")
    (folder / "again").symlink_to(folder / "val")
    (folder / "val" / "loop").symlink_to(folder)
    assert [(record.image_id, record.split) for record in read(folder)] == [
        *(("train/1.jpg", "train"), ("train/deep/2.jpg", "train"), ("val/3.jpg", "val"))
    ]


def test_tar_file_beside_images_with_texts_is_no_shard(tmp_path, caplog):
    (touch(tmp_path, "1.jpg", "images.tar") / "1.txt").write_text("A dog")
    with caplog.at_level("INFO"):
        assert raw_by_name(read(tmp_path)) == {"1.jpg": ["A dog"]}
    assert "read as text_files" in caplog.text


def shard(path, members):
    """A tar file of these names and contents; a content of None makes a link to /etc/passwd."""
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            if name == "sparse.jpg":
                member.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(10**12)}
            member.size = len(content or b"")
            archive.addfile(member, io.BytesIO(content or b""))
    return path


def test_webdataset_shards_give_images_and_captions(tmp_path, caplog):
    samples = [
        ("000.jpg", b"one"),
        ("000.txt", "A dog\n".encode("utf-8-sig")),
        ("001.json", json.dumps({"caption": "A cat", "width": 5}).encode()),
        ("001.PNG", b"two"),
        ("b/002.jpeg", b"three"),
        ("b/002.json", json.dumps({"captions": ["A cow", None]}).encode()),
        ("003.jpg", b"no caption"),
        ("004.jpg", None),
        ("../../escape.jpg", b"four"),
        ("../../escape.txt", b"A fox"),
        ("000.json", json.dumps({"caption": "A dog"}).encode()),  # as img2dataset has it
        ("000.cls", b"7"),
        ("sparse.jpg", b"1"),  # would be a terabyte of zeros
        ("sparse.txt", b"A bomb"),
    ]
    (tmp_path / "shards").mkdir()
    (tmp_path / "work").mkdir()
    shard(tmp_path / "shards" / "set-train-0.tar", samples)
    shard(tmp_path / "shards" / "set-val-0.tar", samples[:2])
    found = read(tmp_path / "shards", workspace=lambda: tmp_path / "work")
    assert [(r.image_id, r.split, r.raw, r.path.read_bytes()) for r in found] == [
        ("set-train-0/000", "train", ("A dog",), b"one"),
        ("set-train-0/001", "train", ("A cat",), b"two"),
        ("set-train-0/b/002", "train", ("A cow",), b"three"),
        ("set-train-0/../../escape", "train", ("A fox",), b"four"),
        ("set-val-0/000", "val", ("A dog",), b"one"),
    ]
    assert all(tmp_path / "work" in record.path.parents for record in found)
    assert found[2].path.name == "b%2F002.jpeg"
    assert {path.name for path in tmp_path.iterdir()} == {"shards", "work"}
    (only, *_) = read(tmp_path / "shards" / "set-val-0.tar", workspace=lambda: tmp_path / "work")
    assert only.image_id == "000"


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([("0.jpg", b""), ("0.png", b"")], "holds two images of the key '0'"),
        ([("0.jpg", b""), ("0.json", b"{")], r"a\.tar: 0\.json cannot be read"),
        ([("0.jpg", b""), ("0.txt", b"\xff")], r"a\.tar: 0\.txt cannot be read"),
    ],
)
def test_webdataset_with_a_wrong_member_names_it(tmp_path, members, told):
    path = shard(tmp_path / "a.tar", members)
    with pytest.raises(ValueError, match=told):
        read(path, workspace=lambda: tmp_path)


@pytest.mark.parametrize("cut", [100, 1500])
def test_webdataset_that_is_cut_short_raises(tmp_path, cut):
    path = shard(tmp_path / "a.tar", [("0.jpg", bytes(9000)), ("0.txt", b"A dog")])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"a\.tar: is not a whole tar file"):
        read(path, workspace=lambda: tmp_path)


def test_folder_of_images_alone_is_not_recognized(tmp_path):
    with pytest.raises(ValueError, match="its layout is not recognized"):
        read(touch(tmp_path, "1.jpg"))
    with pytest.raises(FileNotFoundError, match=r"none: there is no such annotation file"):
        read(tmp_path / "none")


def test_texts_of_images_alone_raise(tmp_path):
    (touch(tmp_path, "1.jpg") / "1.txt").write_text(" \n")
    with pytest.raises(ValueError, match="none of the 1 images has a caption"):
        raw_by_name(read(tmp_path))
