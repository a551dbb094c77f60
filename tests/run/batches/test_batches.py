"""Batches of any size from the user's samples: fixed ones, fresh draws, counts and ceilings."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import loader_cases as cases
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from batchfinder.errors import CannotBuildBatch, InvalidArgument
from batchfinder.run.batches import source_from
from batchfinder.run.tree import leaves


def chained(lists: Iterable[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(lists))


def values(batch: Any) -> list[int]:
    """The samples of a batch by the numbers that they are full of."""
    first = batch[0] if isinstance(batch, (tuple, list)) else batch
    return [int(row[0]) for row in first]


def same(one: Any, other: Any) -> bool:
    pairs = list(zip(leaves(one), leaves(other), strict=True))
    return all(
        p == q and (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b)
        for (p, a), (q, b) in pairs
    )


def test_a_fixed_batch_is_the_same_at_every_call_and_of_distinct_samples() -> None:
    source = source_from(DataLoader(cases.Rows(), batch_size=4, shuffle=True))
    assert len(set(values(source.take(20)))) == 20
    assert values(source.take(7)) == values(source.take(7)) == values(source.take(20))[:7]
    assert (source.base_batch_size, source.length, source.ceiling) == (4, 20, 20)
    assert source.count(source.take(7)) == 7


def test_draws_are_distinct_through_an_epoch_and_repeat_with_the_seed() -> None:
    source = source_from(DataLoader(cases.Rows(), batch_size=4))
    source.rewind(3)
    first = [values(source.draw(5)) for _ in range(8)]
    assert sorted(chained(first[:4])) == list(range(20))
    assert sorted(chained(first[4:])) == list(range(20))
    assert first[:4] != first[4:]
    source.rewind(3)
    assert [values(source.draw(5)) for _ in range(8)] == first
    source.rewind(4)
    assert values(source.draw(5)) != first[0]


def test_no_batch_of_draws_holds_one_sample_twice_at_the_end_of_an_epoch() -> None:
    source = source_from(DataLoader(cases.Rows(), batch_size=4))
    assert all(len(set(values(source.draw(7)))) == 7 for _ in range(20))


def test_larger_than_the_dataset_only_by_saying_so() -> None:
    loader = DataLoader(cases.Rows(5), batch_size=4)
    source = source_from(loader)
    for call in (source.take, source.draw, source.ordinary):
        with pytest.raises(CannotBuildBatch, match=r"at most 5 .*request for 6"):
            call(6)
    repeating = source_from(loader, allow_repeats=True)
    assert repeating.ceiling is None
    assert sorted(values(repeating.take(10))) == sorted([*range(5)] * 2)


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_below_one_is_refused(size: int) -> None:
    with pytest.raises(InvalidArgument, match="at least 1"):
        source_from(DataLoader(cases.Rows())).take(size)


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_loader_with_fewer_rows_than_a_batch(drop_last: bool) -> None:
    source = source_from(DataLoader(cases.Rows(3), batch_size=8, drop_last=drop_last))
    assert source.ceiling == 3
    assert source.count(source.take(3)) == 3
    assert any("yields no batch" in said for said in source.notes) == drop_last


def test_only_what_the_sampler_yields_is_used() -> None:
    sampler = SubsetRandomSampler([2, 3, 5, 7])
    source = source_from(DataLoader(cases.Rows(), batch_size=2, sampler=sampler))
    assert source.ceiling == 4
    assert sorted(values(source.take(4))) == [2, 3, 5, 7]
    assert sorted(values(source.draw(4))) == [2, 3, 5, 7]


def test_weights_decide_what_is_drawn() -> None:
    weights = torch.tensor([0.0] * 10 + [1.0] * 9 + [9.0])
    sampler = WeightedRandomSampler(weights, 20)
    source = source_from(DataLoader(cases.Rows(), batch_size=2, sampler=sampler))
    drawn = chained(values(source.draw(10)) for _ in range(200))
    share = drawn.count(19) / len(drawn)
    assert set(drawn) <= set(range(10, 20))
    # 2000 draws with probability 9/18: five standard deviations are 0.056.
    assert share == pytest.approx(0.5, abs=0.056)


def test_a_collate_function_that_changes_its_samples_cannot_spoil_the_next_batch() -> None:
    source = source_from(DataLoader(cases.DictRows(), batch_size=4, collate_fn=cases.popping))
    assert same(source.take(6), source.take(6))


def test_random_augmentation_is_the_same_at_every_call_and_fresh_in_draws() -> None:
    class Noisy(cases.Rows):
        def __getitem__(self, index: int) -> Any:
            x, y = super().__getitem__(index)
            return x + torch.rand(2) * 0.5, y

    source = source_from(DataLoader(Noisy(), batch_size=4))
    before = torch.get_rng_state()
    assert same(source.take(3), source.take(3))
    source.rewind(1)
    first = source.draw(20)[0].sort(0).values
    second = source.draw(20)[0].sort(0).values
    assert torch.equal(first.int(), second.int())
    assert not torch.equal(first, second)
    source.rewind(1)
    assert torch.equal(source.draw(20)[0].sort(0).values, first)
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_are_repeated_rather_than_kept_without_bound() -> None:
    dataset = cases.Rows(20)
    source = source_from(DataLoader(dataset, batch_size=4))
    source.take(1)
    source._cache_bytes = 5 * 16  # five samples of two floats and a number's worth
    dataset.read.clear()
    assert source.count(source.take(20)) == 20
    assert len(set(values(source.take(20)))) < 20


def test_the_batch_dimension_is_found_where_it_is_not_the_first() -> None:
    loader = DataLoader(cases.Rows(), batch_size=4, collate_fn=cases.time_first)
    source = source_from(loader)
    assert source.take(5)[0].shape == (2, 5)
    assert source.count(source.take(5)) == 5


def test_a_stream_is_buffered_and_says_so() -> None:
    source = source_from(DataLoader(cases.StreamRows(), batch_size=4))
    assert (source.base_batch_size, source.ceiling) == (4, 20)
    assert values(source.take(3)) == [0, 1, 2]
    assert sorted(chained(values(source.draw(5)) for _ in range(4))) == list(range(20))
    assert any("stream" in said for said in source.notes)


def test_a_long_stream_has_no_length() -> None:
    source = source_from(DataLoader(cases.StreamRows(100_000), batch_size=4))
    assert source.length is None
    assert source.ceiling is None
    source.rewind(0)
    assert len(set(values(source.draw(512))) | set(values(source.draw(512)))) == 1024


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(cases.StreamBatches(), batch_size=None),
        list(cases.StreamBatches()),
        [list(batch) for batch in cases.StreamBatches()],
    ],
)
def test_batches_made_elsewhere_are_cut_and_joined(loader: Any) -> None:
    source = source_from(loader)
    assert source.base_batch_size == 4
    assert values(source.take(7)) == list(range(7))
    assert source.take(7)[1].tolist() == [i % 3 for i in range(7)]
    source.rewind(0)
    assert sorted(values(source.draw(20))) == list(range(20))
    assert any("splitting and joining" in said for said in source.notes)


def test_a_dataset_in_place_of_a_loader() -> None:
    source = source_from(TensorDataset(torch.arange(8.0)[:, None]))
    assert source.base_batch_size is None
    assert source.ceiling == 8
    assert sorted(values(source.take(8))) == list(range(8))
    assert any("dataset was given" in said for said in source.notes)


def test_a_generator_is_refused_and_not_read() -> None:
    generator = (batch for batch in cases.StreamBatches())
    with pytest.raises(CannotBuildBatch, match=r"reading would exhaust.*make_loader=lambda"):
        source_from(generator)
    assert values(next(generator)) == [0, 1, 2, 3]


def test_a_stream_that_can_be_read_once_is_refused_and_not_read() -> None:
    class Once(IterableDataset):
        def __init__(self) -> None:
            self.samples = (torch.full((2,), float(i)) for i in range(6))

        def __iter__(self) -> Any:
            return self.samples

    loader = DataLoader(Once(), batch_size=2)
    with pytest.raises(CannotBuildBatch, match=r"same iterator every time.*make_loader=lambda"):
        source_from(loader)
    assert len(list(loader)) == 3


@pytest.mark.parametrize("loader", [3, "abc", torch.zeros(3, 2)])
def test_what_is_no_loader_is_refused(loader: Any) -> None:
    with pytest.raises(CannotBuildBatch, match="expected a DataLoader"):
        source_from(loader)


def test_several_loaders_are_refused_with_a_way_that_works() -> None:
    loaders = {"one": DataLoader(cases.Rows(), 4), "other": DataLoader(cases.Rows(), 2)}
    with pytest.raises(CannotBuildBatch, match=r"several in one dict.*make_loader=.*count="):
        source_from(loaders)

    def make(size: int) -> list[Any]:
        return [{"one": next(iter(DataLoader(cases.Rows(), size))), "other": torch.zeros(2)}] * 3

    source = source_from(loaders, make_loader=make, count=lambda batch: len(batch["one"][1]))
    assert source.count(source.take(5)) == 5


@pytest.mark.parametrize(
    "loader",
    [
        [],
        DataLoader(cases.StreamRows(0), batch_size=4),
        DataLoader(cases.Rows(4), batch_size=2, sampler=SubsetRandomSampler([])),
    ],
)
def test_an_empty_loader_is_named(loader: Any) -> None:
    with pytest.raises(CannotBuildBatch, match=r"empty.*make_loader=lambda"):
        source_from(loader)


class Broken(cases.Rows):
    def __getitem__(self, index: int) -> Any:
        if index == 13:
            raise KeyError("no such file")
        return super().__getitem__(index)


def test_a_dataset_that_raises_does_so_as_itself_with_a_note() -> None:
    source = source_from(DataLoader(Broken(), batch_size=4))
    with pytest.raises(KeyError, match="no such file") as caught:
        source.draw(20)
    assert "sample 13 of Broken" in caught.value.__notes__[0]
    assert "make_loader=lambda batch_size" in caught.value.__notes__[0]


def test_samples_that_cannot_be_joined_are_named() -> None:
    class Ragged(cases.Rows):
        def __getitem__(self, index: int) -> Any:
            return torch.zeros(index + 1)

    with pytest.raises(CannotBuildBatch, match=r"differ in shape.*collate_fn that pads.*make_load"):
        source_from(DataLoader(Ragged())).take(2)


def test_a_bug_in_the_collate_function_passes_through() -> None:
    def collate(samples: list[Any]) -> Any:
        raise ValueError("not today")

    with pytest.raises(ValueError, match="not today") as caught:
        source_from(DataLoader(cases.Rows(), collate_fn=collate)).take(2)
    assert not isinstance(caught.value, CannotBuildBatch)
    assert "collating 2 samples" in caught.value.__notes__[0]
