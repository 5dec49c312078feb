"""The tokenizer as a vocabulary: what it stores, that the end is a target, the same interface."""

from __future__ import annotations

import json
import random
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
    assert subwords.words(ids) == ["a", "red", "dog", "runs"]
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


def bert_files(folder: Path) -> Path:
    """A BERT tokenizer from before tokenizer.json: vocab.txt alone."""
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "dog",
        "##s",
        "run",
        "a",
        "the",
        "##ning",
        ".",
        "猫",
        "在",
    ]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return folder


def sentencepiece_files(folder: Path, name: str, kind: str) -> Path:
    """A sentencepiece model of a few captions, as `name`."""
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    (folder / "captions.txt").write_text("\n".join(tiny_vit.CAPTIONS * 9))
    prefix = name.removesuffix(".model")
    trainer.train(
        input=str(folder / "captions.txt"),
        model_prefix=str(folder / prefix),
        vocab_size=40,
        model_type=kind,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return folder


def test_tokenizer_load_of_vocab_txt_alone_is_berts(tmp_path):
    subwords = SubwordTokenizer.load(bert_files(tmp_path))
    ids = subwords.encode(subwords.split(["The", "dogs", "running."]))
    assert ids == [2, 8, 4, 5, 6, 9, 10, 3]
    assert subwords.decode(ids) == "the dogs running."
    assert subwords.words_and_lengths(ids) == (["the", "dogs", "running."], [1, 2, 3])
    assert subwords.words(subwords.encode(subwords.split(["猫在"]))) == ["猫", "在"]


@pytest.mark.parametrize(
    ("name", "kind", "model_type"),
    [
        ("sentencepiece.bpe.model", "unigram", "mbart"),
        ("spiece.model", "unigram", None),
        ("tokenizer.model", "bpe", None),
    ],
)
def test_tokenizer_load_of_a_sentencepiece_model_reads_it(name, kind, model_type, tmp_path):
    sentencepiece_files(tmp_path, name, kind)
    if model_type:
        config = {"model_type": "vision-encoder-decoder", "decoder": {"model_type": model_type}}
        (tmp_path / "config.json").write_text(json.dumps(config))
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    subwords = SubwordTokenizer.load(tmp_path)
    caption = "a red dog sings"
    ids = subwords.encode(subwords.split(caption.split()))
    assert subwords.decode(ids) == caption
    words, lengths = subwords.words_and_lengths(ids)
    assert words == caption.split()
    assert sum(lengths) == len(ids) - 2
    assert max(lengths) > 1


def test_tokenizer_load_of_a_folder_without_one_says_what_it_may_hold(tmp_path):
    with pytest.raises(ValueError, match=r"it holds none of tokenizer\.json, vocab\.txt"):
        SubwordTokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("a zebra-like dog, running.", ["a", "zebra-like", "dog,", "running."]),
        ("naïve dög 🐟 <3", ["naïve", "dög", "🐟", "<3"]),
        ("猫在跑", ["猫", "在", "跑"]),
        ("", []),
    ],
)
def test_words_of_byte_level_pieces_are_whole(caption, words):
    subwords = tiny_vit.subwords()
    ids = subwords.encode(subwords.split([caption]))
    found, lengths = subwords.words_and_lengths(ids)
    assert found == words
    assert sum(lengths) == len(ids) - 2


def test_words_of_any_ids_have_all_tokens_and_the_letters_of_the_text():
    subwords = tiny_vit.subwords()
    draw = random.Random(0)
    for _ in range(200):
        ids = [draw.randrange(1, len(subwords)) for _ in range(draw.randrange(12))]
        words, lengths = subwords.words_and_lengths(ids)
        assert sum(lengths) == len(ids)
        assert "".join("".join(words).split()) == "".join(subwords.decode(ids).split())


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


@pytest.mark.parametrize("key", ["start_id", "end_id", "pad_id"])
def test_tokenizers_that_differ_in_one_special_token_are_not_equal(key):
    plain = tiny_vit.subwords()
    assert SubwordTokenizer(plain.tokenizer, {key: 5}) == SubwordTokenizer(
        plain.tokenizer, {key: 5}
    )
    assert SubwordTokenizer(plain.tokenizer, {key: 5}) != plain
    with pytest.raises(TypeError, match="unhashable"):
        hash(plain)


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


def test_prepared_files_know_the_special_tokens_of_their_own_tokenizer_alone(prepared, tmp_path):
    """Ids that have no known names lie in a file of their own: it is no second data set, and none
    of the next tokenizer's."""
    plain = read_vocabulary(prepared, find_data_name(prepared))
    odd = SubwordTokenizer(plain.tokenizer, {"start_id": 5, "end_id": 6, "pad_id": 7})
    words = tuple(tiny_vit.CAPTIONS[0].split())
    records = [
        Record(0, tmp_path / "0.png", split, (words,), ("",), None)
        for split in ("train", "val", "test")
    ]
    for subwords in (odd, plain):
        subwords.save(tmp_path / "tokenizer.json")
        config = InputFilesConfig(image_size=8, tokenizer=str(tmp_path / "tokenizer.json"))
        create_input_files(records, tmp_path / "other", config, overwrite=True)
        stored = read_vocabulary(tmp_path / "other", find_data_name(tmp_path / "other"))
        ids = (subwords.start_id, subwords.end_id, subwords.pad_id)
        assert (stored.start_id, stored.end_id, stored.pad_id) == ids


@pytest.mark.parametrize("number", ["5", 5.0, True, -1, 10**6, 10**12])
def test_special_id_that_is_no_token_raises(number, tmp_path):
    path, beside = tmp_path / "tokenizer.json", tmp_path / "tokenizer.ids.json"
    subwords = tiny_vit.subwords()
    SubwordTokenizer(subwords.tokenizer, {"start_id": 5}).save(path)
    beside.write_text(json.dumps({"start_id": number, "of another version": 0}))
    with pytest.raises(ValueError, match=r"ids\.json cannot be read \(start_id is .*: prepare the"):
        SubwordTokenizer.load(path)


def test_tokenizer_and_vocabulary_have_the_same_methods():
    asked = {
        "encode",
        "decode",
        "words",
        "words_and_lengths",
        "save",
        "load",
        "FILE",
        "__len__",
        "__eq__",
    }
    assert asked <= set(dir(Vocabulary))
    assert asked <= set(dir(SubwordTokenizer))
