"""Time overhead of counting memory on a CPU, and the memory that it misses.

Each training's step is timed plainly, under a dispatch mode that does nothing, and under the
ledger, in turn, so that a machine that slows down favours none; medians of the processor time of
one thread. The last two columns compare the ledger's rise of memory with every allocation of the
CPU's allocator.

    python tests/benchmarks/ledger_cost.py [repeats]
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
from memory_cases import CPU, rise_by_profiler, whole_step
from memory_models import TRAININGS, Training

from batchfinder.run.memory.ledger import Ledger

LEAST_SECONDS = 0.02
"""Batches are doubled until a plain step takes this long."""


class EmptyMode(TorchDispatchMode):
    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return func(*args, **(kwargs or {}))


class CountingMode(TorchDispatchMode):
    """Counts operators."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def seconds(work: Callable[[], None], inside: AbstractContextManager[Any]) -> float:
    with inside:
        started = time.process_time()
        work()
        return time.process_time() - started


def grown(training: Training) -> tuple[Callable[[], None], Any, Any, int]:
    """A step that takes long enough, with its parts and its batch size."""
    step, source = training.make()
    size = training.size
    while True:
        batch = source.take(size)
        work = functools.partial(whole_step, step, batch)
        work()
        if min(seconds(work, nullcontext()) for _ in range(3)) >= LEAST_SECONDS:
            return work, step, batch, size
        size *= 2


def ledger_with(step: Any, batch: Any) -> Ledger:
    ledger = Ledger(CPU)
    ledger.hold([*step.holdings(), *batch])
    return ledger


def row(name: str, training: Training, repeats: int) -> str:
    work, step, batch, size = grown(training)
    plain, empty, counted = [], [], []
    for _ in range(repeats):
        plain.append(seconds(work, nullcontext()))
        empty.append(seconds(work, EmptyMode()))
        counted.append(seconds(work, ledger_with(step, batch)))
    base = statistics.median(plain)
    with CountingMode() as operators:
        work()
    ledger = ledger_with(step, batch)
    before = ledger.current
    with ledger:
        work()
    seen, true = ledger.peak - before, rise_by_profiler(work)
    return (
        f"| {name} | {size} | {operators.count} | {base * 1e3:.1f} "
        f"| {statistics.median(empty) / base:.2f} | {statistics.median(counted) / base:.2f} "
        f"| {seen / 2**20:.1f} | {seen / true:.4f} |"
    )


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    torch.set_num_threads(1)
    print("| training | batch | operators | plain ms | empty mode | ledger | rise MiB | of true |")
    print("|---|---|---|---|---|---|---|---|")
    for name, training in TRAININGS.items():
        print(row(name, training, repeats), flush=True)


if __name__ == "__main__":
    main()
