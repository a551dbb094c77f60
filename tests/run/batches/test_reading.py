"""Samples are read by the user's workers, ahead of the draws, no longer than there is time."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from multiprocessing import forkserver
from typing import Any

import loader_cases as cases
import psutil
import pytest
import torch
from fakes import FakeClock
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from batchfinder import max_batch_size
from batchfinder.errors import CannotBuildBatch, OutOfTime
from batchfinder.run.batches import reading, source_from
from batchfinder.run.batches.indexed import expected_sizes
from batchfinder.run.batches.order import EAGER, Order, Scattered
from batchfinder.run.batches.source import DISTINCT, READING_SHARE
from batchfinder.run.batches.stores import Patience
from batchfinder.run.batches.streamed import Streamed
from batchfinder.run.batches.workers import loading_seconds


def values(batch: Any) -> list[int]:
    return [int(row[0]) for row in batch[0]]


class WhereRead(cases.Rows):
    """Each sample says which process read it."""

    def __getitem__(self, index: int) -> Any:
        return torch.tensor([float(index), float(os.getpid()), torch.rand(())]), index % 3


def pids(batch: Any) -> set[int]:
    return {int(row[1]) for row in batch[0]}


def workers() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    server = getattr(forkserver._forkserver, "_forkserver_pid", None)  # of other tests' processes
    return [
        each
        for each in children
        if each.pid != server and "resource_tracker" not in " ".join(each.cmdline())
    ]


@pytest.fixture
def loader() -> DataLoader[Any]:
    return DataLoader(WhereRead(64), batch_size=4, num_workers=2)


def test_every_sample_comes_from_one_set_of_workers(loader: DataLoader[Any]) -> None:
    source = source_from(loader)
    seen = pids(source.take(20)) | pids(source.ordinary(20))
    source.rewind(3)
    seen |= {pid for _ in range(12) for pid in pids(source.draw(4))}
    with reading(source.rebuild(8)) as batches:
        seen |= {pid for batch in batches for pid in pids(batch)}
    assert len(seen) == 2
    assert os.getpid() not in seen
    assert {child.pid for child in workers()} >= seen
    source.close()
    assert not {child.pid for child in workers()} & seen


@pytest.mark.parametrize("count", [0, 1, 2])
def test_draws_are_the_same_whoever_reads_them(count: int) -> None:
    def drawn(number: int) -> list[Any]:
        source = source_from(DataLoader(WhereRead(64), batch_size=4, num_workers=number))
        source.rewind(3)
        found = [source.draw(size) for size in (4, 4, 4, 3, 4, 16, 16, 2, 4, 4)]
        source.close()
        return [[row[[0, 2]].tolist() for row in batch[0]] for batch in found]

    assert drawn(count) == drawn(0)


def test_draws_through_an_epoch_are_distinct_though_more_is_read_ahead(
    loader: DataLoader[Any],
) -> None:
    source = source_from(loader)
    for seed in range(3):
        source.rewind(seed)
        sizes = [5, 5, 6, 5, 5, 6, 8, 8, 16]
        found = [value for size in sizes for value in values(source.draw(size))]
        assert sorted(found) == list(range(64))
    source.close()


def test_what_torch_says_of_the_user_s_settings_is_not_said_again() -> None:
    with pytest.warns(UserWarning, match="100 worker processes"):
        loader = DataLoader(WhereRead(64), batch_size=4, num_workers=100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source_from(loader).rebuild(8)


def test_a_loader_in_its_own_order_reads_as_by_itself(loader: DataLoader[Any]) -> None:
    source = source_from(loader)
    source.draw(4)
    assert [values(batch) for batch in source.rebuild(8)] == [
        list(range(at, at + 8)) for at in range(0, 64, 8)
    ]
    source.close()


@pytest.mark.parametrize(
    ("sizes", "coming"),
    [
        ([4], [4, 4, 4]),
        ([4, 4], [4, 4, 4]),
        ([5, 5, 6, 5, 5, 6], [5, 5, 6]),
        ([5, 5, 6, 5, 5, 6, 5], [5, 6, 5]),
        ([4, 4, 9], [9, 9, 9]),
        ([], []),
    ],
)
def test_sizes_that_come_are_told_from_those_before(sizes: list[int], coming: list[int]) -> None:
    assert expected_sizes(sizes, 3) == coming


def interrupted(model: torch.nn.Module, batch: Any) -> torch.Tensor:
    if len(batch[0]) > 2:
        assert workers()
        raise KeyboardInterrupt
    return model(batch[0][:, :1]).mean()


def test_no_worker_is_left_after_an_interrupt(loader: DataLoader[Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        max_batch_size(
            torch.nn.Linear(1, 1),
            loader,
            train_step=interrupted,
            memory_limit="8MiB",
            observe=lambda event: None,
        )
    assert not workers()


class Unsendable(cases.Rows):
    """Cannot go to a spawned process."""

    def __init__(self) -> None:
        super().__init__(20)
        self.opened = lambda: None


def test_where_workers_cannot_be_had_samples_are_read_here_and_it_is_said() -> None:
    loader = DataLoader(Unsendable(), batch_size=4, num_workers=1, multiprocessing_context="spawn")
    source = source_from(loader)
    assert source.count(source.take(5)) == source.count(source.draw(5)) == 5
    assert any("could not be started" in note for note in source.notes)
    assert not workers()


class Opaque:
    """A sample that cannot be sent, though the batch made of it can."""

    def __init__(self, index: int) -> None:
        self.value, self.file = float(index), lambda: None


class OpaqueRows(cases.Rows):
    def __getitem__(self, index: int) -> Any:
        return Opaque(index)


def as_values(samples: list[Opaque]) -> torch.Tensor:
    return torch.tensor([[sample.value] for sample in samples])


def test_samples_that_cannot_be_sent_are_read_here_and_their_batches_by_the_workers() -> None:
    loader = DataLoader(OpaqueRows(20), batch_size=4, num_workers=1, collate_fn=as_values)
    source = source_from(loader)
    assert source.take(5).shape == source.draw(5).shape == (5, 1)
    source.close()


class Raising(cases.Rows):
    def __getitem__(self, index: int) -> Any:
        if index == 13:
            raise KeyError("no such file")
        return super().__getitem__(index)


def test_a_bug_in_a_worker_passes_through_and_the_others_go_on() -> None:
    source = source_from(DataLoader(Raising(64), batch_size=4, num_workers=2))
    source.rewind(0)
    raised = 0
    for _ in range(16):
        try:
            source.draw(4)
        except KeyError as error:
            raised += 1
            assert "no such file" in str(error)
    assert raised == 1
    source.close()


class Mortal(cases.Rows):
    def __getitem__(self, index: int) -> Any:
        if index == 13 and get_worker_info() is not None:
            os._exit(1)
        return super().__getitem__(index)


def test_a_worker_that_dies_is_a_clear_error() -> None:
    source = source_from(DataLoader(Mortal(32), batch_size=4, num_workers=1))
    with pytest.raises(CannotBuildBatch, match=r"worker processes died.*make_loader="):
        for _ in range(8):
            source.draw(4)
    source.close()
    assert not workers()


class Shards(IterableDataset):
    """A stream that asks which worker reads it, or not."""

    def __init__(self, is_split: bool) -> None:
        self.is_split = is_split

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info and self.is_split else (0, 1)
        pid = float(os.getpid())
        return ((torch.tensor([float(i), pid]), i % 3) for i in range(first, 60, step))


@pytest.mark.parametrize("is_split", [True, False])
def test_a_stream_is_read_by_workers_where_they_share_it_out(is_split: bool) -> None:
    source = source_from(DataLoader(Shards(is_split), batch_size=4, num_workers=2))
    source.rewind(1)
    drawn = [source.draw(20) for _ in range(3)]
    assert sorted(value for batch in drawn for value in values(batch)) == list(range(60))
    assert (os.getpid() in set().union(*map(pids, drawn))) is not is_split
    assert any("contains every sample 2 times" in note for note in source.notes) is not is_split
    source.close()
    assert not workers()


class Slow(cases.Rows):
    """Every sample takes a second of a clock that is told so."""

    def __init__(self, clock: FakeClock, count: int = 2000) -> None:
        super().__init__(count)
        self.clock = clock

    def __getitem__(self, index: int) -> Any:
        self.clock.pass_by(1.0)
        return super().__getitem__(index)


def timed_source(seconds: float = float("inf")) -> tuple[Any, FakeClock, list[tuple[int, int]]]:
    clock, seen = FakeClock(), []
    source = source_from(
        DataLoader(Slow(clock), batch_size=4),
        seconds_left=lambda: seconds - clock.now,
        on_read=lambda read, planned: seen.append((read, planned)),
        clock=clock,
    )
    return source, clock, seen


def test_a_trial_repeats_a_few_samples_where_reading_takes_long() -> None:
    source, clock, _ = timed_source()
    read = source.store.patience.samples_read
    assert source.count(source.take(1500)) == 1500
    assert (
        source.store.patience.samples_read - read >= DISTINCT
        or source.store.patience.samples_read <= 64
    )
    assert len(set(values(source.take(1500)))) <= 64
    before = clock.now
    source.take(1600)
    assert clock.now == before  # nothing more is read for the next trial


class SlowStream(IterableDataset[Any]):
    """Every sample takes a second; ``pieces`` of them come at once."""

    def __init__(self, clock: FakeClock, pieces: int = 1) -> None:
        self.clock, self.pieces = clock, pieces

    def __iter__(self) -> Iterator[Any]:
        for place in range(100_000):
            if place % self.pieces == 0:
                self.clock.pass_by(float(self.pieces))
            yield torch.tensor([place])


def streamed(clock: FakeClock, seconds: float, pieces: int = 1) -> Any:
    return source_from(
        DataLoader(SlowStream(clock, pieces), batch_size=64),
        seconds_left=lambda: seconds - clock.now,
        patience_seconds=0.0,
        clock=clock,
    )


def test_a_stream_is_read_for_a_trial_until_some_are_distinct_or_a_share_of_the_time_is_over() -> (
    None
):
    clock = FakeClock()
    source = streamed(clock, seconds=60.0)
    assert source.count(source.take(500)) == 500
    assert clock.now <= READING_SHARE * 60 + 2
    clock = FakeClock()
    source = streamed(clock, seconds=10_000.0)
    source.take(500)
    assert DISTINCT <= clock.now <= DISTINCT + 2


def test_the_pace_of_a_stream_that_comes_in_bursts_is_that_of_whole_bursts() -> None:
    clock = FakeClock()
    store = Streamed(
        lambda: SlowStream(clock, pieces=8),
        torch.stack,
        burst=8,
        patience=Patience(clock=clock),
    )
    store.available(20)
    assert store.patience.expected_seconds(64) == pytest.approx(64)


def test_a_stream_whose_batch_takes_longer_than_there_is_time_is_not_timed_again() -> None:
    clock = FakeClock()
    source = streamed(clock, seconds=1000.0)
    source.take(16)
    before = clock.now
    found = loading_seconds(source, [32, 64], budget_seconds=2.0, clock=clock)
    assert (found[32], found[64], clock.now) == (pytest.approx(32), pytest.approx(64), before)


def test_a_dataset_read_sample_by_sample_is_timed_by_its_own_loader() -> None:
    """Its samples were not read by all workers at once: what they took is not the loader's pace."""
    source, clock, _ = timed_source(seconds=1000.0)
    source.take(8)
    before = clock.now
    assert source.expected_seconds(64) == 0.0
    assert loading_seconds(source, [64], budget_seconds=2.0, clock=clock)[64] == pytest.approx(64)
    assert clock.now > before


def test_draws_are_always_of_distinct_samples() -> None:
    source, _, _ = timed_source()
    assert len(set(values(source.draw(500)))) == 500


def test_time_that_is_up_is_named_as_time_and_fixed_batches_repeat_what_there_is() -> None:
    source, clock, _ = timed_source(seconds=100.0)
    source.draw(20)
    with pytest.raises(OutOfTime, match=r"20 samples, about .* budget_seconds"):
        for _ in range(100):
            source.draw(20)
    assert clock.now <= 100
    clock.pass_by(100)
    assert source.count(source.take(300)) == 300


def test_a_draw_that_would_take_too_long_is_not_begun() -> None:
    source, clock, _ = timed_source(seconds=200.0)
    source.draw(10)
    before = clock.now
    with pytest.raises(OutOfTime, match="1000 samples"):
        source.draw(1000)
    assert clock.now == before
    assert source.store.patience.expected_seconds(50) == pytest.approx(50)


def test_how_far_reading_is_can_be_followed() -> None:
    source, _, seen = timed_source()
    source.draw(5)
    assert seen[-1][0] == source.store.patience.samples_read
    assert sorted(seen) == seen


def test_a_permutation_too_large_to_write_down_is_one() -> None:
    for count in (1, 2, 3, 1000):
        assert sorted(Scattered(count, 3).at(range(count))) == list(range(count))
    assert Scattered(1000, 3)[:5] != Scattered(1000, 4)[:5]
    assert Scattered(1000, 3)[-1] == Scattered(1000, 3).at([999])[0]


class Vast(cases.Rows):
    """Three thousand million samples, none of which exists before it is asked for."""

    def __init__(self) -> None:
        super().__init__(3 * 10**9)


def test_a_vast_dataset_needs_no_list_of_its_samples() -> None:
    source = source_from(Vast())
    drawn = values(source.draw(100)) + values(source.draw(100))
    assert len(set(drawn)) == 200
    assert max(drawn) > 2 * 10**9
    assert len(set(values(source.take(50)))) == 50
    batches = iter(source.rebuild(4))
    assert len(set(values(next(batches)) + values(next(batches)))) == 8


def test_draws_from_a_vast_order_are_distinct_and_repeat() -> None:
    order = Order(EAGER + 7, seed=1)
    first = order.draw(1000) + order.draw(1000)
    assert len(set(first)) == 2000
    order.rewind(1)
    assert order.draw(2000) == first
