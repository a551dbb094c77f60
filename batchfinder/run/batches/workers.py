"""A loader read: its worker processes, its memory on the host, its time, epoch after epoch."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from statistics import median
from typing import Any

from batchfinder.errors import CannotBuildBatch
from batchfinder.protocols import Batch, BatchSource, Clock
from batchfinder.run.memory import host_budget
from batchfinder.run.tree import MAKE_LOADER
from batchfinder.units import format_bytes

__all__ = [
    "check_host",
    "copies_of",
    "died",
    "endless",
    "has_died",
    "loading_seconds",
    "reading",
    "scaled",
    "stopped",
    "time_loader",
    "workers_of",
]


_REAP_SECONDS = 2.0


def workers_of(loader: Any) -> int:
    """How many worker processes a loader reads with; 0 where it reads in this process."""
    count = getattr(loader, "num_workers", 0)
    return count if isinstance(count, int) else 0


@contextmanager
def reading(loader: Iterable[Any]) -> Iterator[Iterator[Any]]:
    """An iterator over ``loader``; its workers are stopped on the way out.

    Raises:
        CannotBuildBatch: where a worker process died.
    """
    batches: Iterator[Any] = iter(())
    try:
        batches = iter(loader)
        yield batches
    except (RuntimeError, OSError, EOFError) as error:
        if not has_died(error, batches):
            raise
        raise died(error, workers_of(loader)) from error
    finally:
        stopped(loader, batches)


def has_died(error: BaseException, batches: Any) -> bool:
    """Whether ``error`` came up because a worker process behind ``batches`` died."""
    if not isinstance(error, (RuntimeError, OSError, EOFError)):
        return False
    return _is_death(error) or _lost_one(batches)


def died(error: BaseException, workers: int) -> CannotBuildBatch:
    """What to raise where a worker process died, with the way out."""
    return CannotBuildBatch(
        f"expected batches; one of the loader's {workers} worker processes died ({error}). Out of "
        "shared or host memory is the usual cause: try fewer workers or a smaller "
        f"prefetch_factor, or {MAKE_LOADER}"
    )


def _lost_one(batches: Any) -> bool:
    """Whether a worker has been killed: what it was sending then fails as a broken pipe.

    The pipe may break a moment before the process counts as ended, and the signal of its end may
    arrive while that is waited for.
    """
    workers = getattr(batches, "_workers", ())
    if not workers:
        return False
    try:
        ended = wait([worker.sentinel for worker in workers], timeout=_REAP_SECONDS)
        for worker in workers:
            if worker.sentinel in ended:
                worker.join()
        return any(worker.exitcode not in (None, 0) for worker in workers)
    except RuntimeError as error:
        return _is_death(error)


def _is_death(error: BaseException) -> bool:
    """Torch tells of a dead worker when it waits for a batch, or by a signal at any moment."""
    text = str(error)
    return "DataLoader worker" in text and ("exited unexp" in text or "killed by signal" in text)


def stopped(loader: Any, batches: Iterator[Any]) -> None:
    """Stop the worker processes behind ``batches``; once more does no harm."""
    for candidate in (batches, getattr(loader, "_iterator", None)):
        stop = getattr(candidate, "_shutdown_workers", None)
        if callable(stop):
            _to_the_end(stop)
    if getattr(loader, "_iterator", None) is not None:
        loader._iterator = None
    close = getattr(batches, "close", None)
    if callable(close):
        close()


def _to_the_end(stop: Callable[[], None]) -> None:
    """Stop workers of which one may be dead: the signal of that arrives while they are stopped."""
    try:
        stop()
    except RuntimeError as error:
        if not _is_death(error):
            raise


_WORTH_ASKING = 64 * 1024**2  # below this, the budget need not be looked up


def copies_of(loader: Any) -> int:
    """Batches that a loader's workers hold at once: workers × prefetch factor."""
    workers = getattr(loader, "num_workers", 0) or 0
    return int(workers) * int(getattr(loader, "prefetch_factor", None) or 2)


def check_host(needed: int, size: int) -> None:
    """Refuse a batch that the host has no memory for, before the kernel kills the process.

    Raises:
        MemoryError: with the bytes needed and had; the search takes it as out of memory.
    """
    if needed < _WORTH_ASKING:
        return
    budget = host_budget()
    if needed > budget:
        raise MemoryError(
            f"a batch of {size} samples needs {format_bytes(needed)} of the host's memory, of "
            f"which {format_bytes(budget)} may be taken"
        )


MOST_SKIPPED = 100
"""Batches below the size, one after the other, after which a loader is taken to have no others."""


def endless(source: BatchSource, size: int) -> Generator[Batch]:
    """Batches of ``source.rebuild(size)`` without end, those of fewer than ``size`` samples out.

    An epoch's last batch may be of a single sample, at which batch norm fails: training at this
    size is not to be judged by it. Where an epoch has no whole batch, ordinary samples stand in.
    Under a token budget a batch seldom fills it, and none is left out.
    """
    while True:
        found = skipped = 0
        with reading(source.rebuild(size)) as batches:
            for batch in batches:
                if source.unit == "samples" and source.count(batch) < size:
                    skipped += 1
                    if skipped == MOST_SKIPPED:
                        break
                    continue
                found, skipped, handed = found + 1, 0, [batch]
                del batch  # else it stays in memory while the caller's next one, of another, runs
                yield handed.pop()
        if not found:
            ceiling = source.ceiling
            yield source.ordinary(size if ceiling is None else min(size, ceiling))


def time_loader(
    loader: Iterable[Any],
    *,
    batches: int = 8,
    clock: Clock = time.perf_counter,
    budget_seconds: float = math.inf,
) -> float | None:
    """Seconds for one batch when nothing else runs; ``None`` for a loader of under two batches.

    The first batch, which starts the workers, does not count, and neither do as many batches as
    the workers had made in the meantime. With workers batches come in bursts, one of each worker:
    as many count as make whole bursts, at least ``batches``. Ends once ``budget_seconds`` have
    passed; where no burst is whole by then, the mean over all that came stands in. Without workers
    the first batch counts where it took that long by itself.
    """
    burst = max(1, workers_of(loader))
    ahead = 1 + workers_of(loader) * int(getattr(loader, "prefetch_factor", None) or 0)
    wanted = burst * math.ceil(batches / burst)
    waits: list[float] = []
    with reading(loader) as stream:
        began = started = clock()
        for _ in itertools.islice(stream, ahead + wanted):
            now = clock()
            waits.append(now - started)
            started = clock()
            if started - began > budget_seconds and (len(waits) > 1 or not workers_of(loader)):
                break
    if len(waits) < 2 and not (waits and waits[0] > budget_seconds):
        return None
    counted = waits[ahead:] if len(waits) >= ahead + burst else waits[1:] or waits
    whole = len(counted) - len(counted) % burst
    counted = counted[len(counted) - whole :] or waits
    # The mean is the rate; the median of one wait would be that of a batch which was ready.
    return sum(counted) / len(counted) if workers_of(loader) else median(counted)


def loading_seconds(
    source: BatchSource,
    sizes: Sequence[int],
    *,
    batches: int = 6,
    budget_seconds: float = math.inf,
    clock: Clock = time.perf_counter,
) -> dict[int, float]:
    """Seconds per batch that the user's loader takes when nothing else runs, for every size.

    The size nearest to the user's own is timed first, then the others from the smallest up while
    there is time. A loader's time is its samples' time, so that the rest, and sizes of which the
    dataset fills only one batch, are given the time per sample of the next smaller size timed; so
    are those below the user's own of which the loader makes no batches.
    """
    own = source.base_batch_size
    nearest = min(sizes, key=lambda size: abs(size - (own or 0)), default=0)
    deadline = clock() + budget_seconds
    timed: dict[int, float] = {}
    per_sample = 0.0
    for size in sorted(set(sizes), key=lambda size: (size != nearest, size)):
        left = deadline - clock()
        if timed and (batches + 1) * size * per_sample > left:
            continue
        loader = source.rebuild(size)
        try:
            seconds = time_loader(loader, batches=batches, clock=clock, budget_seconds=left)
        except Exception:
            if own is None or size >= own:
                raise
            continue  # a collate function that leaves out broken samples may be left with none
        if seconds is not None:
            timed[size] = seconds
            per_sample = seconds / size
    return {size: scaled(size, timed) for size in sizes if timed}


def scaled(size: int, timed: Mapping[int, float]) -> float:
    """By the time per sample of the nearest size timed, the smaller one where there is one."""
    if size in timed:
        return timed[size]
    below = [each for each in timed if each < size]
    nearest = max(below) if below else min(timed)
    return size * timed[nearest] / nearest
