"""The words of raw captions, against tokens of Karpathy's files."""

import unicodedata

import pytest

from sat.data.annotations.words import split_words


@pytest.mark.parametrize(
    ("raw", "words"),
    [  # captions of Flickr8k with their tokens in dataset_flickr8k.json
        (
            "A boy does a high-flying trick , in Washington D.C.",
            "a boy does a high flying trick in washington d c",
        ),
        ("The man 's T-shirt is # 2 .", "the man s t shirt is 2"),
        ("walk do n't walk at five o'clock", "walk do n t walk at five o clock"),
        ('We cannot see avrovulcan.com & "Sombody"', "we cannot see avrovulcan com sombody"),
        # COCO's word map has someones and chefs
        ("Someone's cake; the chef’s knife!", "someones cake the chefs knife"),
        ("", ""),
        (" ... !?", ""),
        ("snake_case\tand\nlines", "snake case and lines"),
    ],
)
def test_split_words_of_english_gives_karpathys_tokens(raw, words):
    assert " ".join(split_words(raw)) == words


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("Zwei Hunde spielen über Größe .", "zwei hunde spielen über größe"),
        ("Un cafe\u0301 noir", "un café noir"),  # an accent of its own joins its letter
        ("L'homme à l’eau", "l homme à l eau"),
        ("Собака бежит — быстро!", "собака бежит быстро"),
        ("एक कुत्ता दौड़ रहा है", "एक कुत्ता दौड़ रहा है"),  # vowel signs are no letters
        ("개가 달린다.", "개가 달린다"),
        ("一只狗在跑。", "一 只 狗 在 跑"),
        ("2匹の犬Dog", "2 匹 の 犬 dog"),
        ("หมาวิ่ง", "ห ม า ว ิ่ ง".replace(" ิ", "ิ")),
        ("a dog \U0001f436", "a dog"),
    ],
)
def test_split_words_of_other_languages_keeps_letters_whole(raw, words):
    assert " ".join(split_words(raw)) == unicodedata.normalize("NFC", words)
