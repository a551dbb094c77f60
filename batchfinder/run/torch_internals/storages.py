"""Storages: what tells one from another, when one is resized, what the CPU allocates."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, Protocol

import torch

__all__ = ["CpuAllocations", "resizes_followed", "storage_key"]

storage_key: Callable[[torch.UntypedStorage], int] = (
    attrgetter("_cdata")
    if hasattr(torch.UntypedStorage, "_cdata")
    else torch.UntypedStorage.data_ptr
)
"""The same for all tensors that share a storage: its address in C++.

Else that of its bytes, which fake tensors have not: nothing can then be predicted.
"""


class Resizing(Protocol):
    """What hears of storages that are resized, which is no operator."""

    def before_resize(self, storage: Any, size: int) -> None: ...
    def after_resize(self, storage: Any) -> None: ...


_PATCHING = threading.Lock()


@contextmanager
def resizes_followed(listener: Resizing) -> Iterator[None]:
    """``UntypedStorage.resize_`` tells ``listener`` inside; afterwards it is as it was.

    Sharded training frees and refills storages so. Any number of listeners, of any threads, may
    come and go in any order: the last to go takes the patch away.
    """
    with _PATCHING:
        listeners = _listeners()
        if listeners is None:
            listeners = _patch_resize()
        listeners.append(listener)
    try:
        yield
    finally:
        with _PATCHING:
            listeners.remove(listener)
            if not listeners and _listeners() is listeners:
                del torch.UntypedStorage.resize_


def _listeners() -> list[Resizing] | None:
    own: Any = vars(torch.UntypedStorage).get("resize_")
    found: list[Resizing] | None = getattr(own, "listeners", None)
    return found


def _patch_resize() -> list[Resizing]:
    # A method of the base class in C; a patch of somebody else's stays below ours.
    original: Any = torch.UntypedStorage.resize_
    listeners: list[Resizing] = []

    def resize_(storage: Any, size: int) -> Any:
        now = list({id(each): each for each in list(listeners)}.values())
        for each in now:
            each.before_resize(storage, size)
        result = original(storage, size)
        for each in now:
            each.after_resize(storage)
        return result

    resize_.listeners = listeners  # type: ignore[attr-defined]  # found again through the patch
    torch.UntypedStorage.resize_ = resize_  # type: ignore  # a method of C, replaced by ours
    return listeners


class CpuAllocations:
    """Every allocation of the CPU's allocator while it is entered, in order.

    The older of torch's two profilers, since the newer one writes on the standard error stream.
    Where it is missing, or another one is running, nothing is recorded.
    """

    def __init__(self) -> None:
        self.changes: list[int] = []
        self._is_on = False

    def __enter__(self) -> CpuAllocations:
        try:
            _profiler()._enable_profiler_legacy(_memory_only())
        except (AttributeError, RuntimeError, TypeError):
            return self
        self._is_on = True
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_on:
            return
        self._is_on = False
        threads = _profiler()._disable_profiler_legacy()
        events: list[Any] = [event for thread in threads for event in thread]
        start = next((event for event in events if event.name() == "__start_profile"), None)
        timed = [
            (start.cpu_elapsed_us(event) if start is not None else 0.0, event.cpu_memory_usage())
            for event in events
            if event.kind() == "memory_alloc"
        ]
        self.changes = [count for _, count in sorted(timed, key=lambda pair: pair[0])]


def _profiler() -> Any:
    """Where torch keeps it; not part of its typed interface."""
    return torch.autograd


def _memory_only() -> Any:
    shapes, stack, flops, modules = False, False, False, False
    return _profiler().ProfilerConfig(
        _profiler().ProfilerState.CPU,
        shapes,
        True,  # memory
        stack,
        flops,
        modules,
        torch._C._profiler._ExperimentalConfig(),
    )
