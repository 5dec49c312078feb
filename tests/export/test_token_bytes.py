"""The bytes of each token, put together, are the text that the tokenizer decodes."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sat.data.tokenizer import END_OF_TEXT, SubwordTokenizer
from sat.data.vocabulary import SPECIAL_WORDS, Vocabulary
from sat.export.token_bytes import BYTE_OF, token_bytes

CAPTIONS = ["ein mädchen läuft über die straße", "一只猫坐在沙发上", "naïve café", "two  dogs , 🐟"]


def bert() -> SubwordTokenizer:
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "ein",
        "mädchen",
        "café",
        "##s",
        ",",
        "dog",
        "two",
    ]
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    tokenizer.add_special_tokens(pieces[:4])
    return SubwordTokenizer(tokenizer)


def llama() -> SubwordTokenizer:
    """Sentences of whole words, and of bytes for what it does not know."""
    pieces = ["<s>", "</s>", "<pad>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += sorted({*"eindogtwocaf"})
    model = models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>")
    model.byte_fallback = True
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(pieces[:4])
    return SubwordTokenizer(tokenizer)


TOKENIZERS = {
    "bytes alone": lambda: SubwordTokenizer.train(CAPTIONS, 257),
    "gpt2": lambda: SubwordTokenizer.train(CAPTIONS, 300),
    "bert": bert,
    "llama": llama,
    "words": lambda: Vocabulary.build([line.split() for line in CAPTIONS], min_word_freq=1),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_token_bytes_of_a_caption_join_to_its_text(name):
    vocabulary = TOKENIZERS[name]()
    pieces = token_bytes(vocabulary)
    for line in CAPTIONS:
        words = line.split() if name == "words" else vocabulary.split([line])
        ids = vocabulary.encode(words)[1:-1]
        text = b"".join(pieces[i] for i in ids).decode().strip()
        assert text == vocabulary.decode(ids)
        assert text == line or name in ("bert", "words")


def test_token_bytes_without_a_word_of_letters_hold_the_blank_before():
    words = (*SPECIAL_WORDS[:1], "2-3", "4", *SPECIAL_WORDS[1:])
    vocabulary = Vocabulary({word: number for number, word in enumerate(words)})
    assert token_bytes(vocabulary) == [b"", b" 2-3", b" 4", b" <unk>", b"", b""]


def test_token_bytes_without_any_text_are_empty():
    tokenizer = Tokenizer(models.WordLevel({END_OF_TEXT: 0}, unk_token=END_OF_TEXT))
    tokenizer.add_special_tokens([END_OF_TEXT])
    assert token_bytes(SubwordTokenizer(tokenizer)) == [b""]


def test_letters_of_bytes_are_those_of_the_tokenizers_library():
    assert {*BYTE_OF} == {*pre_tokenizers.ByteLevel.alphabet()}
    assert sorted(BYTE_OF.values()) == [*range(256)]
