"""Batches that come again were read once."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from batchfinder.run.batches import Kept, source_from


class Counting(Dataset[Any]):
    def __init__(self) -> None:
        self.reads = 0

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> torch.Tensor:
        self.reads += 1
        return torch.full((2,), float(index))


def kept(**options: Any) -> tuple[Kept, Counting]:
    data = Counting()
    source = source_from(DataLoader(data, 4, shuffle=True))
    source.count(source.ordinary(4))  # how samples are counted is found once
    data.reads = 0
    return Kept(source, 4, **options), data


def taken(batches: Any, count: int) -> list[torch.Tensor]:
    return list(islice(batches, count))


def test_the_same_batches_come_again_and_are_not_read_again() -> None:
    batches, data = kept()
    first = taken(batches.onward(), 5)
    reads = data.reads
    again = taken(batches.again(), 5)
    assert [torch.equal(a, b) for a, b in zip(first, again, strict=True)] == [True] * 5
    assert data.reads == reads == 20


def test_what_comes_onward_was_not_handed_on_before() -> None:
    batches, _ = kept()
    one, other = (torch.cat(taken(batches.onward(), 8)) for _ in range(2))
    assert len({*one[:, 0].tolist(), *other[:, 0].tolist()}) == 64


def test_a_step_that_changes_its_batch_does_not_change_what_comes_again() -> None:
    batches, _ = kept()
    first = taken(batches.onward(), 3)
    before = [batch.clone() for batch in first]
    for _ in range(2):
        again = taken(batches.again(), 3)
        assert all(torch.equal(a, b) for a, b in zip(before, again, strict=True))
        for batch in (*first, *again):
            batch.zero_()


@pytest.mark.parametrize("most", [0, 100])
def test_what_there_is_no_room_for_is_read_again(most: int) -> None:
    batches, data = kept(most_bytes=most)
    taken(batches.onward(), 5)
    assert len(taken(batches.again(), 5)) == 5
    assert data.reads == 40


def test_batches_that_are_on_a_device_are_not_kept_there() -> None:
    source = source_from(DataLoader(Counting(), 4, collate_fn=on_device))
    batches = Kept(source, 4)
    taken(batches.onward(), 2)
    assert batches._kept is None
    assert len(taken(batches.again(), 3)) == 3


def on_device(samples: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(samples).to("meta")
