"""The older of torch's two profilers, which is no part of its public interface."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["CpuAllocations"]


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
