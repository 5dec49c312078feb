"""The tokenizer as a vocabulary: what it stores, that the end is a target, the same interface."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_vit
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sat.config.data import InputFilesConfig
from sat.data.annotations.record import Record
from sat.data.dataset import CaptionDataset, find_data_name, read_vocabulary
from sat.data.prepare import create_input_files
from sat.data.tokenizer import END_OF_TEXT, SubwordTokenizer
from sat.data.vocabulary import Vocabulary


def test_tokenizer_encode_puts_end_of_text_around_the_caption():
    subwords = tiny_vit.subwords()
    pieces = subwords.split(["a", "red", "dog", "runs"])
    ids = subwords.encode(pieces)
    end = subwords.tokenizer.token_to_id(END_OF_TEXT)
    plain = subwords.tokenizer.encode("a red dog runs", add_special_tokens=False).ids
    assert ids == [end, *plain, end]
    assert (subwords.start_id, subwords.end_id, subwords.pad_id) == (end, end, end)
    assert subwords.unk_id is None
    assert subwords.decode([*ids, *plain, end]) == "a red dog runs"
    assert subwords.decode(plain) == "a red dog runs"
    assert len(subwords.words(ids)) == len(plain)
    assert subwords.decode([end, end, end]) == ""


def test_tokenizer_decode_of_encode_gives_any_text_back():
    subwords = tiny_vit.subwords()
    words = ["naïve", "猫", "dög", "<3", "🐟"]
    assert subwords.decode(subwords.encode(subwords.split(words))) == " ".join(words)


def test_tokenizer_of_bert_finds_special_tokens_by_name():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "dog", "##s", "run"]
    model = models.WordPiece(vocab={p: i for i, p in enumerate(pieces)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    tokenizer.add_special_tokens(pieces[:4])
    tokenizer.enable_padding(length=9)
    tokenizer.enable_truncation(2)
    subwords = SubwordTokenizer(tokenizer)
    assert (subwords.pad_id, subwords.unk_id, subwords.start_id, subwords.end_id) == (0, 1, 2, 3)
    assert subwords.encode(subwords.split(["dogs", "run", "run"])) == [2, 4, 5, 6, 6, 3]
    assert subwords.decode([2, 4, 5, 6, 3, 6, 0]) == "dogs run"
    with pytest.raises(ValueError, match="has no start token: it needs one of"):
        SubwordTokenizer(Tokenizer(models.WordPiece(vocab={"[UNK]": 0}, unk_token="[UNK]")))


def test_tokenizer_saved_and_loaded_is_equal(tmp_path):
    subwords = tiny_vit.subwords()
    subwords.save(tmp_path / "tokenizer.json")
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    for source in (tmp_path, tmp_path / "tokenizer.json"):
        assert SubwordTokenizer.load(source) == subwords
    assert SubwordTokenizer.train(tiny_vit.CAPTIONS[:3], 300) != subwords
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a tokenizer"):
        SubwordTokenizer.load(tmp_path)


def test_tokenizer_load_of_vocab_and_merges_reads_them(tmp_path):
    """vocab.json and merges.txt, as in folders from before tokenizer.json."""
    subwords = tiny_vit.subwords()
    model = json.loads(subwords.tokenizer.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    older = SubwordTokenizer.load(tmp_path)
    for caption in (*tiny_vit.CAPTIONS, "nothing like it"):
        words = caption.split()
        assert older.encode(older.split(words)) == subwords.encode(subwords.split(words))
        assert older.decode(older.encode(older.split(words))) == caption


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    from PIL import Image

    records = []
    for split in ("train", "val", "test"):
        for i, caption in enumerate(tiny_vit.CAPTIONS):
            path = tmp_path / f"{i}.png"
            Image.new("RGB", (20, 10), (20 * i, 100, 0)).save(path)
            words = (tuple(caption.split()), ("fish",) * 60)
            records.append(Record(i, path, split, words, (caption, "fish " * 60), None))
    config = InputFilesConfig(
        dataset="flickr8k", captions_per_image=1, image_size=8, tokenizer="train", max_len=9
    )
    create_input_files(records, tmp_path / "data", config)
    return tmp_path / "data"


def test_prepared_files_with_tokenizer_hold_its_ids_and_the_end(prepared):
    name = find_data_name(prepared)
    assert name == "flickr8k_1_cap_per_img_tokenizer"
    vocabulary = read_vocabulary(prepared, name)
    assert isinstance(vocabulary, SubwordTokenizer)
    dataset = CaptionDataset(prepared, name, "train")
    assert len(dataset) == len(tiny_vit.CAPTIONS)
    for sample, caption in zip(dataset, tiny_vit.CAPTIONS):
        line, length = sample.caption.tolist(), sample.length
        assert len(line) == 9 + 2
        assert line[:length] == vocabulary.encode(vocabulary.split(caption.split()))
        targets = line[1:length]
        assert targets[-1] == vocabulary.end_id
        assert vocabulary.end_id not in targets[:-1]
        assert set(line[length:]) <= {vocabulary.pad_id}
        assert vocabulary.decode(line) == caption


def test_prepared_files_with_a_given_tokenizer_store_it(prepared, tmp_path):
    again = tmp_path / "data" / f"TOKENIZER_{find_data_name(prepared)}.json"
    config = InputFilesConfig(
        dataset="flickr8k", captions_per_image=1, image_size=8, tokenizer=str(again)
    )
    words = tuple(tiny_vit.CAPTIONS[0].split())
    records = [
        Record(0, tmp_path / "0.png", split, (words,), ("",), None)
        for split in ("train", "val", "test")
    ]
    name = create_input_files(records, tmp_path / "other", config)
    assert read_vocabulary(tmp_path / "other", name) == read_vocabulary(prepared, name)
    with pytest.raises(ValueError, match="nowhere: is not a tokenizer"):
        SubwordTokenizer.load(tmp_path / "nowhere")


def test_tokenizer_and_vocabulary_have_the_same_methods():
    asked = {"encode", "decode", "words", "save", "load", "FILE", "__len__", "__eq__"}
    assert asked <= set(dir(Vocabulary))
    assert asked <= set(dir(SubwordTokenizer))
