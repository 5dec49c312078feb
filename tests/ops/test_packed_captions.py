"""Captions packed step by step, by hand."""

from __future__ import annotations

import pytest
import torch

from sat.ops.packed_captions import PackedCaptions, pad_steps

CAPTIONS = torch.tensor([[9, 1, 2, 8], [9, 3, 4, 5], [9, 8, 0, 0]])  # inputs of 2, 3 and 1 words
LENGTHS = torch.tensor([3, 4, 2])


def test_packed_captions_pack_sorts_and_groups_by_step() -> None:
    packed = PackedCaptions(LENGTHS, CAPTIONS.shape, torch.zeros(3, 1))
    assert packed.order.tolist() == [1, 0, 2]
    assert packed.active_sizes == packed.batch_sizes == [3, 2, 1]
    words = packed.pack(CAPTIONS[:, :-1])
    assert words.tolist() == [9, 9, 9, 3, 1, 4]
    table = packed.unpack(words.unsqueeze(1).float()).squeeze(2)
    assert table.tolist() == [[9, 1, 0], [9, 3, 4], [9, 0, 0]]
    sorted_table = pad_steps(words.unsqueeze(1), packed.batch_sizes).squeeze(2)
    assert sorted_table.tolist() == [[9, 3, 4], [9, 1, 0], [9, 0, 0]]


def test_packed_captions_in_bfloat16_compute_finished_captions_and_drop_them() -> None:
    features = torch.zeros(3, 1, dtype=torch.bfloat16)
    packed = PackedCaptions(LENGTHS, CAPTIONS.shape, features)
    assert (packed.batch_sizes, packed.active_sizes) == ([3, 3, 3], [3, 2, 1])
    words = packed.drop_finished(packed.pack(CAPTIONS[:, :-1]).unsqueeze(1))
    assert words.flatten().tolist() == [9, 9, 9, 3, 1, 4]


def test_packed_captions_repeat_gives_rows_of_each_captions_image() -> None:
    features = torch.tensor([[1.0], [2.0]])
    packed = PackedCaptions(torch.tensor([2, 3, 4, 2]), (4, 4), features)
    assert packed.repeat(features).flatten().tolist() == [2, 1, 1, 2]


@pytest.mark.parametrize("images", [0, 2, 6])
def test_packed_captions_uneven_per_image_raises(images: int) -> None:
    with pytest.raises(ValueError, match=f"3 captions of {images} images: give as many of each"):
        PackedCaptions(LENGTHS, CAPTIONS.shape, torch.zeros(images, 1))
