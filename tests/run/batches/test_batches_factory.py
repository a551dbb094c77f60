"""``make_loader``: the way out that every error names, and what it is held to."""

from __future__ import annotations

import gc
from typing import Any

import loader_cases as cases
import psutil
import pytest
import torch
from table_of_loaders import Bag
from torch.utils.data import DataLoader, get_worker_info

from batchfinder import Training, max_batch_size
from batchfinder.errors import CannotBuildBatch
from batchfinder.run.batches import rebuild_loader, source_from


def shuffled(size: int) -> DataLoader[Any]:
    return DataLoader(cases.Rows(70), batch_size=size, shuffle=True)


def values(batch: Any) -> list[int]:
    return [int(row[0]) for row in batch[0]]


def test_it_is_used_in_place_of_a_loader_that_cannot_be_rebuilt() -> None:
    generator = iter(shuffled(4))
    source = source_from(generator, make_loader=shuffled)
    assert (source.length, source.ceiling, source.base_batch_size) == (70, 70, None)
    assert values(source.take(7)) == values(source.take(7))
    assert source.count(source.take(7)) == source.count(source.ordinary(7)) == 7
    assert rebuild_loader(generator, 3, make_loader=shuffled).batch_size == 3  # type: ignore[attr-defined]
    assert source.rebuild(5).batch_size == 5  # type: ignore[union-attr]
    assert source.notes == ()


def test_draws_are_distinct_repeat_with_the_seed_and_start_again_at_the_end() -> None:
    source = source_from(None, make_loader=shuffled)
    numbers = torch.get_rng_state()
    source.rewind(1)
    first = [values(source.draw(10)) for _ in range(14)]
    assert sorted(sum(first[:7], start=[])) == list(range(70))  # noqa: RUF017  # seven short lists
    assert first[:7] != first[7:]
    source.rewind(1)
    assert [values(source.draw(10)) for _ in range(14)] == first
    assert torch.equal(torch.get_rng_state(), numbers)


def test_a_batch_that_the_caller_changes_is_whole_again_the_next_time() -> None:
    source = source_from(
        None, make_loader=lambda size: DataLoader(cases.DictRows(), batch_size=size)
    )
    source.take(3).pop("labels")
    assert set(source.take(3)) == {"x", "labels", "name"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda size: shuffled(4), r"make_loader\(6\) to return batches of 6 samples; .* has 4"),
        (lambda size: [], r"the first has 0"),
        (
            lambda size: size,
            r"expected make_loader\(1\) to return an iterable of batches; found int",
        ),
    ],
)
def test_one_that_does_not_do_what_it_should_is_named(make: Any, message: str) -> None:
    with pytest.raises(CannotBuildBatch, match=message):
        source_from(None, make_loader=make).take(6)


def test_the_largest_of_the_first_batches_is_taken_where_lengths_vary() -> None:
    texts = cases.Texts(60)
    order = [0, 1, 2, 59, *range(3, 59)]

    def make(size: int) -> DataLoader[Any]:
        return DataLoader(texts, size, sampler=order, collate_fn=cases.pad)

    source = source_from(None, make_loader=make)
    assert source.varies
    assert source.take(2)["input_ids"].shape == (2, 64)
    assert source.ordinary(2)["input_ids"].shape == (2, 8)
    assert any("first 8" in said for said in source.notes)
    ordinary = source.as_ordinary()
    assert not ordinary.varies
    assert ordinary.take(2)["input_ids"].shape == (2, 8)
    assert source.take(2)["input_ids"].shape == (2, 64)


def test_a_whole_call_on_texts_from_make_loader_ends_with_both_peaks() -> None:
    texts = cases.Texts(60)

    def make(size: int) -> DataLoader[Any]:
        return DataLoader(texts, size, collate_fn=cases.pad)

    training = Training(Bag(), make(4), make_loader=make)
    found = max_batch_size(training, memory_limit="1MiB", observe=lambda event: None)
    assert found.max_batch_size > 1


class Prepared(cases.Rows):
    """Can be read only where a worker has been prepared for it."""

    handle: Any = None

    def __getitem__(self, index: int) -> Any:
        if self.handle is None:
            raise RuntimeError("the file is not open here")
        return super().__getitem__(index)


def prepare(worker: int) -> None:
    info = get_worker_info()
    assert info is not None
    info.dataset.handle = "open"


def test_samples_that_only_workers_can_read() -> None:
    others = set(psutil.Process().children())  # of other tests
    loader = DataLoader(Prepared(), batch_size=4, num_workers=1, worker_init_fn=prepare)
    source = source_from(loader)
    assert source.count(source.take(5)) == 5
    assert source.base_batch_size == 4
    assert source.notes == ()
    assert [source.count(source.draw(3)) for _ in range(3)] == [3, 3, 3]
    del source
    gc.collect()
    _, alive = psutil.wait_procs(set(psutil.Process().children()) - others, timeout=5)
    assert not alive


def test_samples_that_nobody_can_read_raise_as_themselves() -> None:
    with pytest.raises(RuntimeError, match="the file is not open here"):
        source_from(DataLoader(Prepared(), batch_size=4)).take(2)
