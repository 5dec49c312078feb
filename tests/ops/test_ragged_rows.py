"""Rows packed and spread over a table with as many seats for every photo."""

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


def test_one_photo_has_all_seats() -> None:
    seats, rows = (
        RaggedRows(torch.zeros(3, dtype=torch.long), 1),
        torch.arange(6.0).unflatten(0, (3, 2)),
    )
    assert torch.equal(seats.pad(rows), rows.unsqueeze(0))
    assert torch.equal(seats.unpad(rows.unsqueeze(0)), rows)


@pytest.mark.parametrize("photos", CASES.values(), ids=CASES)
def test_rows_sit_with_their_photo_in_their_order(photos: list[int]) -> None:
    seats = RaggedRows(torch.tensor(photos), 3)
    rows = torch.arange(1.0, len(photos) + 1)
    table = seats.pad(rows.unsqueeze(1), fill=-1.0)
    width = max(photos.count(photo) for photo in range(3))
    theirs = [[row for row, at in enumerate(photos, 1) if at == photo] for photo in range(3)]
    expected = [line + [-1] * (width - len(line)) for line in theirs]
    assert table.squeeze(2).tolist() == expected
    assert torch.equal(seats.unpad(table).squeeze(1), rows)
