"""How many samples a batch holds, whatever it is made of."""

from __future__ import annotations

from typing import Any

import loader_cases as cases
import pytest
import torch
from torch.utils.data import DataLoader

from batchfinder.errors import CannotBuildBatch
from batchfinder.run.batches import source_from


class Boxes(cases.Rows):
    def __getitem__(self, index: int) -> Any:
        picture = torch.zeros(3, 24 + index % 9, 24 + (index * 7) % 9)
        return picture, {"boxes": torch.zeros(1 + index % 4, 4), "labels": torch.zeros(1)}


class Bare:
    """A batch class with tensors as attributes and nothing else."""

    def __init__(self, rows: list[Any]) -> None:
        self.inputs = torch.stack([row[0] for row in rows])
        self.targets = torch.tensor([row[1] for row in rows])


class Item:
    def __init__(self, row: Any) -> None:
        self.x, self.y = row


def zipped(rows: list[Any]) -> Any:
    return tuple(zip(*rows, strict=True))


COLLATES = {
    "pictures and dicts in tuples": (Boxes, zipped),
    "pictures and dicts in lists": (Boxes, lambda rows: [list(part) for part in zipped(rows)]),
    "a list of samples": (Boxes, list),
    "a batch class": (cases.Rows, Bare),
    "a list of objects": (cases.Rows, lambda rows: [Item(row) for row in rows]),
    "time first": (cases.Rows, cases.time_first),
    "a nested tensor": (Boxes, lambda rows: torch.nested.nested_tensor([r[0] for r in rows])),
}


@pytest.mark.parametrize("name", COLLATES)
def test_what_grows_with_the_batch_counts_it(name: str) -> None:
    dataset, collate = COLLATES[name]
    loader = DataLoader(dataset(30), batch_size=4, collate_fn=collate)
    source = source_from(loader)
    assert [source.count(source.take(size)) for size in (1, 4, 10)] == [1, 4, 10]
    assert source.count(source.draw(7)) == 7

    def make(size: int) -> Any:
        return DataLoader(dataset(30), batch_size=size, collate_fn=collate)

    made = source_from(loader, make_loader=make)
    assert [made.count(made.take(size)) for size in (1, 4, 10)] == [1, 4, 10]
    assert made.base_batch_size == 4


class Opaque:
    __slots__ = ("rows",)

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows


def test_what_cannot_be_counted_asks_for_count() -> None:
    loader = DataLoader(cases.Rows(), batch_size=4, collate_fn=Opaque)
    source = source_from(loader)
    with pytest.raises(CannotBuildBatch, match=r"count=lambda batch.*batch_dim="):
        source.count(source.take(4))
    told = source_from(loader, count=lambda batch: len(batch.rows))
    assert told.count(told.take(4)) == 4


def test_broken_samples_that_the_collate_function_leaves_out() -> None:
    class Files(cases.Rows):
        def __getitem__(self, index: int) -> Any:
            return None if index < 12 else super().__getitem__(index)

    def drop(rows: list[Any]) -> Any:
        return torch.utils.data.default_collate([row for row in rows if row is not None])

    source = source_from(DataLoader(Files(20), batch_size=4, collate_fn=drop))
    assert source.count(source.take(4)) == 4
    assert source.count(source.take(20)) == 20  # of eight sound ones, repeated
    assert sum(source.count(source.draw(2)) for _ in range(8)) > 0
    assert not source.varies


def test_a_dataset_of_nothing_but_broken_samples_is_named() -> None:
    class Files(cases.Rows):
        def __getitem__(self, index: int) -> Any:
            return None

    source = source_from(DataLoader(Files(20), batch_size=4, collate_fn=cases.as_tensor))
    with pytest.raises(CannotBuildBatch, match="contained only missing samples"):
        source.draw(2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_that_gives_a_ready_batch(workers: int) -> None:
    class Ready(cases.Rows):
        def __getitems__(self, indices: list[int]) -> Any:
            return torch.stack([torch.full((2,), float(i)) for i in indices]), torch.tensor(indices)

    loader = DataLoader(Ready(30), batch_size=4, collate_fn=cases.identity, num_workers=workers)
    source = source_from(loader)
    assert source.take(10)[0].shape == (10, 2)
    source.rewind(1)
    assert sorted(int(i) for _ in range(3) for i in source.draw(10)[1]) == list(range(30))
    source.close()
