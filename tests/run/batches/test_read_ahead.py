"""What is read ahead is what will be drawn; what is not wanted any more is not read."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from batchfinder.run.batches import source_from
from batchfinder.run.batches.requests import Indexing, Request, Served, Want


class Counted(Dataset[Any]):
    """Reads are counted, in worker processes too."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.counts = torch.zeros(8, dtype=torch.long).share_memory_()

    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> Any:
        info = torch.utils.data.get_worker_info()
        self.counts[0 if info is None else info.id + 1] += 1
        time.sleep(self.seconds)
        return torch.tensor([float(index)])

    @property
    def reads(self) -> int:
        return int(self.counts.sum())


@pytest.mark.parametrize("workers", [0, 2])
def test_no_more_is_read_than_is_expected_to_be_drawn(workers: int) -> None:
    dataset = Counted()
    source = source_from(DataLoader(dataset, batch_size=4, num_workers=workers))
    before = dataset.reads
    source.rewind(3)
    source.expect([4, 4, 2, 2, 4])
    drawn = [source.draw(size) for size in (4, 4, 2, 2, 4)]
    source.close()
    assert dataset.reads - before == 16
    assert len({float(value) for batch in drawn for value in batch}) == 16


def test_another_size_than_was_expected_is_drawn_all_the_same() -> None:
    drawn = []
    for expected in ((), (4, 4, 4), (3, 4, 5)):
        source = source_from(DataLoader(Counted(), batch_size=4, num_workers=2))
        source.rewind(3)
        source.expect(expected)
        drawn.append([source.draw(size).tolist() for size in (4, 3, 4, 4)])
        source.close()
    assert drawn[0] == drawn[1] == drawn[2]


def test_a_request_that_is_given_up_is_read_no_further() -> None:
    unwanted = torch.zeros(4, dtype=torch.uint8)

    class GivenUp(Counted):
        def __getitem__(self, index: int) -> Any:
            unwanted[1] = index == 2
            return super().__getitem__(index)

    dataset = GivenUp()
    served = Served(dataset, default_collate, Indexing.ONE_BY_ONE, True, unwanted)
    indices, seeds = (1, 2, 3, 4), (0, 0, 0, 0)
    assert served[Request(Want.BATCH, indices, seeds, place=1)] is None
    assert dataset.reads == 2
    assert served[Request(Want.SAMPLES, indices, seeds, place=1)] is None
    assert dataset.reads == 2
    assert served[Request(Want.BATCH, (1, 3), (0, 0), place=2)].tolist() == [[1.0], [3.0]]


def test_what_was_read_ahead_is_given_up_where_drawing_begins_anew() -> None:
    dataset = Counted(0.02)
    source = source_from(DataLoader(dataset, batch_size=16, num_workers=2))
    source.rewind(0)
    for _ in range(3):
        source.draw(16)
    before = dataset.reads
    source.rewind(1)
    source.draw(16)
    source.close()
    assert dataset.reads - before < 3 * 16


@pytest.mark.parametrize("workers", [0, 2])
def test_the_first_samples_of_an_order_are_read_once(workers: int) -> None:
    """As where the loss of a batch is compared with those of its halves."""
    dataset = Counted()
    source = source_from(DataLoader(dataset, batch_size=4, num_workers=workers))
    seen, before = [], dataset.reads
    for size, number in ((16, 4), (8, 8), (16, 4)):
        source.rewind(3)
        source.expect([size] * number)
        drawn = [source.draw(size) for _ in range(number)]
        seen.append([float(value) for batch in drawn for value in batch])
    assert seen[0] == seen[1] == seen[2]
    assert dataset.reads - before == 64
    source.rewind(4)
    source.expect([16])
    assert sorted(map(float, source.draw(16))) != sorted(seen[0][:16])
    source.close()
    assert dataset.reads - before == 80
