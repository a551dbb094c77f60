"""The user's loader read as it is: timed, and its worker processes gone afterwards."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from statistics import median
from typing import Any

from batchfinder.errors import CannotBuildBatch
from batchfinder.protocols import BatchSource, Clock
from batchfinder.run.torch_internals.objects import forget_iterator, stops_of, worker_processes
from batchfinder.run.tree import MAKE_LOADER

__all__ = [
    "died",
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
    workers = worker_processes(batches)
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
    for stop in stops_of(loader, batches):
        _to_the_end(stop)
    forget_iterator(loader)
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


LEAST_SECONDS, MOST_TIMES = 0.2, 32
"""With workers bursts are counted for so long, at most so many times the batches wanted: within
one burst the pause between two may not fall."""


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
    as many count as make whole bursts, at least ``batches``, and 0.2 s of them. Ends once
    ``budget_seconds`` have passed; where no burst is whole by then, the mean over all that came
    stands in. Without workers the first batch counts where it took that long by itself.
    """
    burst = max(1, workers_of(loader))
    ahead = 1 + workers_of(loader) * int(getattr(loader, "prefetch_factor", None) or 0)
    wanted = burst * math.ceil(batches / burst)
    least = LEAST_SECONDS if workers_of(loader) else 0.0
    waits: list[float] = []
    with reading(loader) as stream:
        began = started = clock()
        for _ in itertools.islice(stream, ahead + MOST_TIMES * wanted):
            now = clock()
            waits.append(now - started)
            started = clock()
            bursts_are_whole = len(waits) >= ahead + wanted and (len(waits) - ahead) % burst == 0
            if bursts_are_whole and sum(waits[ahead:]) >= least:
                break
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
    are those below the user's own of which the loader makes no batches. Where one batch takes
    longer than there is time, by what reading took before, that stands in.
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
        if (expected := source.expected_seconds(size)) > left:
            timed[size] = expected
            per_sample = expected / size
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
