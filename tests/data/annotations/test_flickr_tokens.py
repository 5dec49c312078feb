"""Flickr8k.token.txt with its lists of splits, and Flickr30k's results_20130124.token."""

import pytest
from annotation_files import raw_by_name, read, split_by_name

TOKENS = (
    "1000268201_693b08cb0e.jpg#0\tA child in a pink dress is climbing up a set of stairs .\r\n"
    '1000268201_693b08cb0e.jpg#1\tA girl going into a "wooden" building, it seems\r\n'
    "2258277193_586949ec62.jpg.1#0\tpeople waiting for the subway\r\n"
    "\r\n"
    "1001773457_577c3a7d70.jpg#0\t\r\n"
    "1001773457_577c3a7d70.jpg#1\tA black dog # 2 and a spotted dog\r\n"
    "2258277193_586949ec62.jpg.1#1\tPeople on a platform .\r\n"
)


def test_flickr_tokens_with_their_lists_give_records(tmp_path, caplog):
    path = tmp_path / "Flickr8k.token.txt"
    path.write_bytes(TOKENS.encode("utf-8-sig"))
    (tmp_path / "Flickr_8k.trainImages.txt").write_bytes(b"1000268201_693b08cb0e.jpg\r\n")
    (tmp_path / "Flickr_8k.devImages.txt").write_text("1001773457_577c3a7d70.jpg\n\n")
    (tmp_path / "Flickr_8k.testImages.txt").write_text("\n")
    found = read(path, tmp_path)
    assert raw_by_name(found) == {
        "1000268201_693b08cb0e.jpg": [
            "A child in a pink dress is climbing up a set of stairs .",
            'A girl going into a "wooden" building, it seems',
        ],
        "1001773457_577c3a7d70.jpg": ["A black dog # 2 and a spotted dog"],
    }
    assert [record.split for record in found] == ["train", "val"]
    assert found[1].captions == (("a", "black", "dog", "2", "and", "a", "spotted", "dog"),)
    assert "1 captions that are empty or no text are left out" in caplog.text
    assert "1 images of split 'none' are left out" in caplog.text


def test_flickr_tokens_without_lists_name_the_odd_image_rightly(tmp_path):
    path = tmp_path / "results_20130124.token"
    path.write_text(TOKENS)
    found = read(path, tmp_path)
    assert len(raw_by_name(found)["2258277193_586949ec62.jpg"]) == 2
    lists = [tmp_path / "train.txt", tmp_path / "val.txt"]
    lists[0].write_text("2258277193_586949ec62\n")  # as Flickr30k's lists, without .jpg
    lists[1].write_text("1000268201_693b08cb0e.jpg\n")
    assert split_by_name(read(path, tmp_path, splits=lists)) == {
        "2258277193_586949ec62.jpg": "train",
        "1000268201_693b08cb0e.jpg": "val",
    }


def test_flickr_tokens_with_a_broken_line_name_it(tmp_path):
    path = tmp_path / "Flickr8k.token.txt"
    path.write_text("1.jpg#0\tA dog\nno number\n")
    with pytest.raises(ValueError, match=r"token\.txt: line 2 is 'no number': each must be name#"):
        read(path, tmp_path)
