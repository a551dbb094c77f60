"""How long a call takes on slow data, against the time that its samples take by themselves.

A dataset that sleeps stands in for decoding and augmentation. Printed for every cell: seconds of
the call, samples it read, the seconds that these take through the bare loader, the seconds of the
same call on data that does not sleep, and the ratio of the call to the sum of those two (and to
the larger one, below which no call could come). Run as
``python tests/benchmarks/real_data.py [cells|examples]``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from batchfinder import Report, find_batch_size

SECONDS = (0.001, 0.010, 0.050)
WORKERS = (0, 4, 8)
BATCH = 64
BUDGET_SECONDS = 20.0


class Sleeping(Dataset):
    """Pictures that take ``seconds`` each; reads are counted in shared memory."""

    def __init__(self, count: int, seconds: float, side: int = 16) -> None:
        self.count, self.seconds, self.side = count, seconds, side
        self.reads = torch.zeros(64, dtype=torch.long).share_memory_()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        info = torch.utils.data.get_worker_info()
        self.reads[0 if info is None else info.id + 1] += 1
        time.sleep(self.seconds)
        generator = torch.Generator().manual_seed(index)
        return torch.randn(3, self.side, self.side, generator=generator), index % 10


def training(seconds: float, workers: int, batch: int = BATCH, count: int = 50_000) -> Any:
    """A small CNN, its optimizer and its loader."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(128, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    data = Sleeping(count, seconds)
    return model, optimizer, DataLoader(data, batch, shuffle=True, num_workers=workers)


def call(
    seconds: float, workers: int, *, budget: float | None, limit: str = "64MiB", batch: int = BATCH
) -> tuple[float, int, Report]:
    """Seconds of the call, samples read, and what it found."""
    model, optimizer, loader = training(seconds, workers, batch)
    started = time.perf_counter()
    found = find_batch_size(
        model,
        loader,
        loss_fn=nn.CrossEntropyLoss(),
        optimizer=optimizer,
        memory_limit=limit,
        budget_seconds=budget,
        observe=lambda event: None,
    )
    return time.perf_counter() - started, int(loader.dataset.reads.sum()), found


def bare_seconds(samples: int, seconds: float, workers: int) -> float:
    """Through the bare loader, which overlaps what its workers do."""
    return samples * seconds / max(1, workers)


def cells() -> Iterator[str]:
    """One row for every cost of a sample and number of workers."""
    yield "ms  workers  call s  read    bare s  idle s  ratio to sum  to larger  limited by"
    for workers in WORKERS:
        idle, _, _ = call(0.0, workers, budget=BUDGET_SECONDS)
        for seconds in SECONDS:
            taken, read, found = call(seconds, workers, budget=BUDGET_SECONDS)
            bare = bare_seconds(read, seconds, workers)
            limit = found.recommendation.limited_by.name
            yield (
                f"{seconds * 1000:<3.0f} {workers:<8} {taken:<7.1f} {read:<7} {bare:<7.1f} "
                f"{idle:<7.1f} {taken / (bare + idle):<13.2f} {taken / max(bare, idle):<10.2f} "
                f"{limit}"
            )


def examples() -> Iterator[str]:
    """10 ms with 8 workers and no budget; 50 ms in this process within 20 s."""
    for name, seconds, workers, budget, limit, batch in (
        ("10 ms, 8 workers, no budget", 0.010, 8, None, "512MiB", 64),
        ("50 ms, no worker, 20 s", 0.050, 0, 20.0, "64MiB", 16),
    ):
        taken, read, found = call(seconds, workers, budget=budget, limit=limit, batch=batch)
        stages = ", ".join(f"{stage} {spent:.0f}" for stage, spent in found.seconds)
        yield (
            f"{name}: {taken:.1f} s, {read} samples read "
            f"({bare_seconds(read, seconds, workers):.1f} s by themselves), batch "
            f"{found.batch_size}, limited by {found.recommendation.limited_by.name} ({stages})"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for row in examples() if sys.argv[1:] == ["examples"] else cells():
        print(row, flush=True)
