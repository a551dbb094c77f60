"""What loaders keep of their worker processes and samplers of their number of samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.data._utils import worker as worker_module

__all__ = ["draws_all", "forget_iterator", "replace_worker_info", "stops_of", "worker_processes"]


def replace_worker_info(made: Callable[[Any], Any]) -> None:
    """In a worker process: ``get_worker_info`` gives what ``made`` makes of what it gave."""
    module: Any = worker_module
    module._worker_info = made(module._worker_info)


def worker_processes(batches: Any) -> list[Any]:
    """Those behind a loader's iterator.

    None where they cannot be seen: that one was killed is then told by torch's message alone.
    """
    return list(getattr(batches, "_workers", ()))


def kept_iterator(loader: Any) -> Any:
    """What a loader with persistent workers goes on with; ``None`` for any other."""
    return getattr(loader, "_iterator", None)


def stops_of(loader: Any, batches: Any) -> list[Callable[[], None]]:
    """What stops the worker processes behind ``batches``, and those that ``loader`` keeps.

    None where torch has no such method: processes then end with the loader.
    """
    found = (getattr(each, "_shutdown_workers", None) for each in (batches, kept_iterator(loader)))
    return [stop for stop in found if callable(stop)]


def forget_iterator(loader: Any) -> None:
    """Let a loader with persistent workers start new ones at its next pass."""
    if kept_iterator(loader) is not None:
        loader._iterator = None


def draws_all(sampler: Any) -> bool:
    """Whether a ``RandomSampler`` draws as many samples as there are, as none was told a number."""
    return getattr(sampler, "_num_samples", None) is None
