"""Reading a loader so that its worker processes are gone afterwards, whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

from batchfinder.errors import CannotBuildBatch
from batchfinder.run.torch_internals.objects import forget_iterator, stops_of, worker_processes
from batchfinder.run.tree import MAKE_LOADER

__all__ = ["died", "has_died", "reading", "stopped", "workers_of"]

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
