"""Ready-made batches: what has a row for each sample is cut and joined, what is shared stays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import loader_cases as cases
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from batchfinder.errors import CannotBuildBatch
from batchfinder.run.batches import rebuild_loader, source_from
from batchfinder.run.batches.cutting import Cutting


def ready(number: int, size: int = 8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    return {
        "x": torch.randn(size, 6, 16, generator=generator),
        "mask": torch.ones(6, 6).tril(),
        "weights": torch.ones(3),
        "labels": torch.randint(0, 3, (size,), generator=generator),
    }


def shapes(batch: dict[str, torch.Tensor]) -> list[tuple[int, ...]]:
    return [tuple(part.shape) for part in batch.values()]


@pytest.mark.parametrize("size", [1, 3, 32])
def test_a_mask_and_class_weights_do_not_grow(size: int) -> None:
    source = source_from([ready(number) for number in range(20)])
    wanted = [(size, 6, 16), (6, 6), (3,), (size,)]
    assert shapes(source.take(size)) == wanted
    assert shapes(source.draw(size)) == wanted
    assert source.count(source.take(size)) == size
    assert source.base_batch_size == 8
    assert shapes(next(iter(source.rebuild(size)))) == wanted


def test_a_square_mask_as_long_as_the_batch_is_told_by_its_being_the_same() -> None:
    batches = [
        {"x": torch.randn(6, 6), "mask": torch.ones(6, 6).tril(), "seen": torch.ones(6, 6)}
        for _ in range(3)
    ]
    assert shapes(source_from(batches).take(9)) == [(9, 6), (6, 6), (9, 6)]


def test_labels_that_happen_to_be_the_same_in_two_batches_grow() -> None:
    batches = [(torch.randn(4, 2), torch.zeros(4)) for _ in range(3)]
    assert [tuple(part.shape) for part in source_from(batches).take(6)] == [(6, 2), (6,)]


def test_loaders_of_unequal_sizes_in_one_batch_are_refused_with_ways_out() -> None:
    batches = [((torch.randn(8, 2), torch.randn(8)), (torch.randn(4, 2),)) for _ in range(3)]
    with pytest.raises(CannotBuildBatch, match=r"part 1\.0 is neither.*make_loader=.*count="):
        source_from(batches)


def test_pictures_and_their_boxes_in_lists_are_cut_by_entry() -> None:
    def batch(number: int) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
        return (
            [torch.zeros(3, 5 + number, 6 + place) for place in range(4)],
            [{"boxes": torch.zeros(1 + place, 4)} for place in range(4)],
        )

    source = source_from([batch(number) for number in range(3)], count=lambda batch: len(batch[0]))
    images, boxes = source.take(6)
    assert (len(images), len(boxes), source.base_batch_size) == (6, 6, 4)
    assert all(image.ndim == 3 for image in images)
    assert source.count((images, boxes)) == 6


def test_rows_joined_are_the_batch_again() -> None:
    batch = ready(1)
    cutting = Cutting.of([batch, ready(2)])
    again = cutting.join(cutting.rows(batch))
    assert all(torch.equal(again[name], part) for name, part in batch.items())


class OwnLoader(IterableDataset):
    """A loader that inherits from ``IterableDataset`` and yields whole batches."""

    def __init__(self, keeps_loader: bool) -> None:
        loader = DataLoader(cases.Rows(64), batch_size=16)
        if keeps_loader:
            self.pipeline = [loader]
        self.make = lambda: iter(loader)

    def __iter__(self) -> Iterator[Any]:
        return self.make()


@pytest.mark.parametrize("keeps_loader", [True, False])
def test_a_loader_that_inherits_from_a_dataset_is_a_loader(keeps_loader: bool) -> None:
    loader = OwnLoader(keeps_loader)
    source = source_from(loader)
    assert source.base_batch_size == 16
    assert source.ceiling == 64
    assert source.take(24)[0].shape == (24, 2)
    assert next(iter(rebuild_loader(loader, 5)))[0].shape == (5, 2)  # type: ignore[call-overload]


class Wrapper:
    """As timm's loader around a loader."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)


def make(size: int) -> DataLoader[Any]:
    return DataLoader(cases.Rows(64), batch_size=size)


@pytest.mark.parametrize(
    "loader", [make(8), Wrapper(make(8)), Wrapper(Wrapper(make(8))), list(make(8))]
)
def test_the_loader_beside_make_loader_says_the_base_size(loader: Any) -> None:
    assert source_from(loader, make_loader=make).base_batch_size == 8


def test_no_loader_beside_make_loader_says_none() -> None:
    assert source_from(None, make_loader=make).base_batch_size is None


def test_a_loader_that_fabric_set_up_is_taken_apart_as_the_user_s() -> None:
    class SetUp:
        def __init__(self, loader: DataLoader[Any]) -> None:
            self.__dict__.update(vars(loader))
            self._dataloader = loader

        def __iter__(self) -> Iterator[Any]:
            return iter(self._dataloader)

    source = source_from(SetUp(make(8)))
    assert (source.base_batch_size, source.ceiling, source.notes) == (8, 64, ())
