"""Reading a loader so that its worker processes are gone afterwards, whatever happens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from batchfinder.errors import CannotBuildBatch
from batchfinder.run.batches.structure import MAKE_LOADER

__all__ = ["reading", "workers_of"]


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
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or "exited unexpectedly" not in str(error):
            raise
        raise CannotBuildBatch(
            f"expected batches; one of the loader's {workers_of(loader)} worker processes died "
            f"({error}). Out of shared or host memory is the usual cause: try fewer workers or "
            f"a smaller prefetch_factor, or {MAKE_LOADER}"
        ) from error
    finally:
        _stop(loader, batches)


def _stop(loader: Any, batches: Iterator[Any]) -> None:
    for candidate in (batches, getattr(loader, "_iterator", None)):
        stop = getattr(candidate, "_shutdown_workers", None)
        if callable(stop):
            stop()
    if getattr(loader, "_iterator", None) is not None:
        loader._iterator = None
    close = getattr(batches, "close", None)
    if callable(close):
        close()
