"""Rows grouped by image, padded to a table and back."""

from __future__ import annotations

import pytest
import torch

from sat.ops.ragged_rows import RaggedRows

CASES = {
    "as many of each": [0, 0, 1, 1, 2, 2],
    "one each": [0, 1, 2],
    "some have more": [0, 1, 1, 1, 2],
    "one has none": [0, 0, 2],
    "the last has none": [0, 1],
    "mixed": [2, 0, 2, 1, 0, 2],
}


def test_ragged_rows_of_one_image_pad_to_themselves() -> None:
    ragged, rows = (
        RaggedRows(torch.zeros(3, dtype=torch.long), 1, "cpu"),
        torch.arange(6.0).unflatten(0, (3, 2)),
    )
    assert torch.equal(ragged.pad(rows), rows.unsqueeze(0))
    assert torch.equal(ragged.unpad(rows.unsqueeze(0)), rows)


@pytest.mark.parametrize("images", CASES.values(), ids=CASES)
def test_ragged_rows_pad_groups_by_image_and_unpad_restores(images: list[int]) -> None:
    ragged = RaggedRows(torch.tensor(images), 3, "cpu")
    rows = torch.arange(1.0, len(images) + 1)
    table = ragged.pad(rows.unsqueeze(1), fill=-1.0)
    width = max(images.count(image) for image in range(3))
    theirs = [[row for row, at in enumerate(images, 1) if at == image] for image in range(3)]
    expected = [line + [-1] * (width - len(line)) for line in theirs]
    assert table.squeeze(2).tolist() == expected
    assert torch.equal(ragged.unpad(table).squeeze(1), rows)
