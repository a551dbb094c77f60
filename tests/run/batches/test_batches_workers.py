"""Workers: gone afterwards whatever happens, named when they die, timed and guarded."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import loader_cases as cases
import psutil
import pytest
import torch
from fakes import FakeClock
from torch.utils.data import DataLoader, TensorDataset

from batchfinder.errors import CannotBuildBatch
from batchfinder.run.batches import (
    reading,
    rebuild_loader,
    source_from,
    time_loader,
)
from batchfinder.run.batches import stores as host_module


def open_files() -> dict[int, str]:
    """What this process has open, by number."""
    numbers = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    return {number: _target(number) for number in numbers if _target(number)}


def _target(number: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{number}").readlink())
    except OSError:  # closed in the meantime, such as the listing's own
        return ""


def watched(spare: int) -> Iterator[None]:
    """Afterwards no process more than before, and at most ``spare`` open files more."""
    process = psutil.Process()
    gc.collect()
    children, files = set(process.children(recursive=True)), open_files()
    yield
    for _ in range(20):  # what a dead worker was sending is closed by a thread, a moment later
        gc.collect()
        left = {child for child in process.children(recursive=True) if child.is_running()}
        more = {number: name for number, name in open_files().items() if number not in files}
        if left <= children and not more:
            return
        time.sleep(0.1)
    assert left <= children
    assert len(more) <= spare, more


@pytest.fixture
def leaves_nothing() -> Iterator[None]:
    yield from watched(spare=0)


@pytest.fixture
def leaves_no_process() -> Iterator[None]:
    # torch raises a worker's death from a signal handler: where that interrupts the receipt of a
    # tensor between its descriptor's arrival and torch's own try, that one stays open.
    yield from watched(spare=1)


class Mortal(cases.Rows):
    def __getitem__(self, index: int) -> Any:
        if index == 9 and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


class Raising(cases.Rows):
    def __getitem__(self, index: int) -> Any:
        if index == 9:
            raise KeyError("no such row")
        return super().__getitem__(index)


def start_processes() -> None:
    """What torch opens once for all (a resource tracker, a sharing socket) is open already."""
    for _ in DataLoader(cases.Rows(2), num_workers=1):
        pass


@pytest.fixture(autouse=True, scope="module")
def _started() -> None:
    start_processes()


@pytest.mark.usefixtures("leaves_no_process")
def test_a_worker_that_dies_is_named_with_the_way_out() -> None:
    loader = rebuild_loader(DataLoader(Mortal(), batch_size=2, num_workers=1), 4)
    with (
        pytest.raises(CannotBuildBatch, match=r"1 worker processes died.*make_loader=lambda"),
        reading(loader) as batches,
    ):
        list(batches)


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_that_raises_in_the_middle_does_so_as_itself(workers: int) -> None:
    loader = rebuild_loader(DataLoader(Raising(), batch_size=2, num_workers=workers), 4)
    with pytest.raises(KeyError, match="no such row"), reading(loader) as batches:
        list(batches)


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_are_gone_after_half_an_epoch(persistent: bool) -> None:
    others = set(psutil.Process().children(recursive=True))  # of other tests
    loader = DataLoader(cases.Rows(), batch_size=2, num_workers=1, persistent_workers=persistent)
    with reading(rebuild_loader(loader, 4)) as batches:
        next(batches)
        assert set(psutil.Process().children(recursive=True)) - others


@pytest.mark.usefixtures("leaves_nothing")
def test_workers_are_gone_after_an_interrupt() -> None:
    loader = rebuild_loader(DataLoader(cases.Rows(), batch_size=2, num_workers=1), 4)
    with pytest.raises(KeyboardInterrupt), reading(loader):
        raise KeyboardInterrupt


class Slow(cases.Rows):
    """Every sample takes a second of a clock that is told so."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(64)
        self.clock = clock

    def __getitem__(self, index: int) -> Any:
        self.clock.pass_by(1.0)
        return super().__getitem__(index)


def test_a_loader_is_timed_by_itself() -> None:
    clock = FakeClock()
    loader = DataLoader(Slow(clock), batch_size=4)
    assert time_loader(loader, clock=clock) == 4.0
    assert time_loader(rebuild_loader(loader, 8), batches=3, clock=clock) == 8.0
    assert time_loader(rebuild_loader(loader, 64), clock=clock) is None


def test_batches_that_the_workers_made_ahead_do_not_count() -> None:
    """Two workers with two batches each: four were ready, then one comes every half second."""
    clock = FakeClock()

    class Ahead:
        num_workers, prefetch_factor = 2, 2

        def __iter__(self) -> Iterator[int]:
            for turn in range(40):
                clock.pass_by(5.0 if turn == 0 else 0.0 if turn < 5 else float(turn % 2))
                yield turn

    assert time_loader(Ahead(), batches=8, clock=clock) == 0.5


@pytest.mark.parametrize("budget", [1e9, 8.0, 3.0])
@pytest.mark.parametrize("batches", [1, 6, 8, 9])
def test_bursts_count_whole(batches: int, budget: float) -> None:
    """Eight workers that take two seconds a batch each hand over eight at once."""
    clock = FakeClock()

    class InStep:
        num_workers, prefetch_factor = 8, 2

        def __iter__(self) -> Iterator[int]:
            for turn in range(80):
                clock.pass_by(2.0 if turn % 8 == 0 else 0.0)
                yield turn

    found = time_loader(InStep(), batches=batches, clock=clock, budget_seconds=budget)
    assert found == pytest.approx(0.25)


def test_bursts_that_drift_apart_are_counted_over_several() -> None:
    """Eight workers, 20 ms a burst, the pause at another place each time: none in one window."""
    clock = FakeClock()

    class Drifting:
        num_workers, prefetch_factor = 8, 1

        def __iter__(self) -> Iterator[int]:
            pauses = {0, 8, 17, 24, 33, 40, 48, 57, 64, 72, 80, 88, 96}
            for turn in range(104):
                clock.pass_by(0.02 if turn in pauses else 0.0)
                yield turn

    found = time_loader(Drifting(), batches=6, clock=clock)
    assert found == pytest.approx(0.02 / 8, rel=0.15)


def test_what_the_workers_hold_is_known() -> None:
    def copies(**options: Any) -> int:
        return source_from(DataLoader(cases.Rows(), batch_size=4, **options)).worker_copies

    assert copies() == 0
    assert copies(num_workers=2) == 4
    assert copies(num_workers=1, prefetch_factor=5) == 5


def test_a_batch_that_the_host_cannot_hold_is_refused_before_it_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = source_from(DataLoader(TensorDataset(torch.zeros(4, 1024, 1024))), allow_repeats=True)
    monkeypatch.setattr(host_module, "host_budget", lambda: 100 * 1024**2)
    assert source.count(source.take(20)) == 20
    with pytest.raises(MemoryError, match=r"batch of 30 samples needs 120 MiB .* 100 MiB"):
        source.take(30)
