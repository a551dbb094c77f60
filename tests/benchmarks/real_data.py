"""Duration of a call on slow data, compared with reading its samples alone.

A data set that sleeps stands in for decoding and augmentation, and seconds are those of a machine
without other work (``quiet.py``). Printed for every cell: seconds of the call, the samples that it
read, the seconds that these take through the bare loader at the rate that it has in this process,
the seconds of the same call on data that does not sleep, the longest time in which nothing was
printed, and what the call said::

    python tests/benchmarks/real_data.py cells      # 1, 10, 50 ms a sample at 0, 4, 8 workers:
                                                    # docs/tables/real_data.md
    python tests/benchmarks/real_data.py examples   # two calls as people make them
    python tests/benchmarks/real_data.py workers    # 10 ms a sample: what is said with 1, 4, 8
    python tests/benchmarks/real_data.py budgets    # budgets of 10, 20 and 60 s: are they kept?
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from quiet import Said
from torch import nn
from torch.utils.data import DataLoader, Dataset

from batchfinder import Report, find_batch_size

SECONDS = (0.001, 0.010, 0.050)
WORKERS = (0, 4, 8)
BUDGETS = (10.0, 20.0, 60.0)
BATCH = 64
AIM = 1.5
TABLE = Path(__file__).parent.parent.parent / "docs" / "tables" / "real_data.md"


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
    seconds: float,
    workers: int,
    *,
    budget: float | None = None,
    limit: str = "64MiB",
    batch: int = BATCH,
) -> tuple[float, int, Report, Said]:
    """Seconds of the call, samples read, what it found, and what it said on the way."""
    model, optimizer, loader = training(seconds, workers, batch)
    errors, sys.stderr = sys.stderr, Said()
    said: Any = sys.stderr
    started = time.perf_counter()
    try:
        found = find_batch_size(
            model,
            loader,
            loss_fn=nn.CrossEntropyLoss(),
            optimizer=optimizer,
            memory_limit=limit,
            budget_seconds=budget,
        )
    finally:
        sys.stderr = errors
    said.pause()
    return time.perf_counter() - started, int(loader.dataset.reads.sum()), found, said


def bare_seconds(samples: int, seconds: float, workers: int, batch: int = BATCH) -> float:
    """What so many samples take through the loader by itself, once its workers run."""
    _, _, loader = training(seconds, workers, batch)
    ahead = 3 * workers
    counted = max(2, 2 * workers, round(2.0 * max(1, workers) / max(seconds * batch, 1e-3)))
    stream = iter(loader)
    for _ in itertools.islice(stream, ahead):
        pass
    started = time.perf_counter()
    for _ in itertools.islice(stream, counted):
        pass
    taken = time.perf_counter() - started
    return samples * taken / (counted * batch)


@dataclass(frozen=True)
class Cell:
    """One call on samples of ``seconds`` each, and what it is held against."""

    seconds: float
    workers: int
    taken: float
    read: int
    bare: float
    idle: float
    silent: float
    limit: str

    @property
    def ratio(self) -> float:
        return self.taken / self.bare

    def name(self) -> str:
        return f"{1000 * self.seconds:.0f} ms with {self.workers} workers ({self.ratio:.1f})"

    def row(self) -> str:
        return (
            f"| {1000 * self.seconds:.0f} | {self.workers} | {self.taken:.0f} s | {self.read:,} "
            f"| {self.bare:.0f} s | {self.idle:.0f} s | {self.ratio:.2f} "
            f"| {self.taken / (self.bare + self.idle):.2f} | {self.silent:.0f} s | {self.limit} |"
        )


def cells() -> Iterator[str]:
    """The page: one row for every cost of a sample and number of workers, without a budget."""
    load, found = os.getloadavg()[0], []
    for workers in WORKERS:
        idle, *_ = call(0.0, workers)
        for seconds in SECONDS:
            taken, read, report, said = call(seconds, workers)
            bare = bare_seconds(read, seconds, workers)
            limit = report.recommendation.limited_by.value
            cell = Cell(seconds, workers, taken, read, bare, idle, said.longest, limit)
            print(cell.row(), flush=True)
            found.append(cell)
    lines = [
        "# Calls on slow data",
        "",
        "Made by `python tests/benchmarks/real_data.py cells` on two cores "
        f"(torch {torch.__version__}, load at its start {load:.1f}). Seconds leave out those in "
        "which the process was ready and waited for a processor (`tests/benchmarks/quiet.py`). A "
        f"small CNN, batch {BATCH}, one thread, no budget.",
        "",
        '"These alone" is what the samples that were read take through the bare loader; "without '
        'sleep" is the same call on data that costs nothing. '
        + _met(found)
        + " A call computes as well as reads: where it takes no longer than on data that costs "
        "nothing, the ratio to reading alone says nothing of reading.",
        "",
        "| ms a sample | workers | call | samples read | these alone | without sleep "
        "| call / alone | call / (alone + without sleep) | silent for | limited by |",
        "|" + "--:|" * 9 + "---|",
        *(cell.row() for cell in found),
        "",
    ]
    TABLE.write_text("\n".join(lines), encoding="utf-8")
    yield f"written to {TABLE}"


def _met(found: Sequence[Cell]) -> str:
    missed = [cell for cell in found if cell.ratio > AIM]
    text = f"The aim, {AIM} times the samples alone, is met in {len(found) - len(missed)} of "
    text += f"{len(found)} cells"
    if not missed:
        return text + "."
    bound = [cell for cell in missed if cell.taken <= cell.idle]
    text += "; it is missed at " + ", ".join(cell.name() for cell in missed) + "."
    if bound:
        count = "all of them" if len(bound) == len(missed) else f"{len(bound)} of them"
        text += f" At {count} the call takes no longer than on data that costs nothing."
    return text


def examples() -> Iterator[str]:
    """10 ms with 8 workers and no budget; 50 ms in this process within 20 s."""
    for name, seconds, workers, budget, limit, batch in (
        ("10 ms, 8 workers, no budget", 0.010, 8, None, "512MiB", 64),
        ("50 ms, no worker, 20 s", 0.050, 0, 20.0, "64MiB", 16),
    ):
        taken, read, found, said = call(seconds, workers, budget=budget, limit=limit, batch=batch)
        stages = ", ".join(f"{stage} {spent:.0f}" for stage, spent in found.seconds)
        yield (
            f"{name}: {taken:.1f} s, {read:,} samples read "
            f"({bare_seconds(read, seconds, workers, batch):.1f} s by themselves), silent for at "
            f"most {said.longest:.1f} s, batch {found.batch_size}, limited by "
            f"{found.recommendation.limited_by.value} ({stages})"
        )
        yield from (f"  - {each}" for each in found.caveats)


def workers() -> Iterator[str]:
    """The first sentence of the report where the loader is the limit, and what limits."""
    for count in (1, 4, 8):
        taken, _, found, _ = call(0.010, count)
        first = str(found).split("\n\n")[0].replace("\n", " ")
        yield f"{count} workers, {taken:.0f} s, {found.recommendation.limited_by}: {first}"


def budgets() -> Iterator[str]:
    """Whether a budget is kept, reading included."""
    yield "| ms a sample | workers | " + " | ".join(f"{each:.0f} s" for each in BUDGETS) + " |"
    yield "|--:|--:|" + "--:|" * len(BUDGETS)
    for count, seconds in itertools.product((0, 4), SECONDS):
        taken = [call(seconds, count, budget=each)[0] for each in BUDGETS]
        yield (
            f"| {seconds * 1000:.0f} | {count} | " + " | ".join(f"{t:.1f} s" for t in taken) + " |"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    rows = {"cells": cells, "examples": examples, "workers": workers, "budgets": budgets}
    for row in rows[(sys.argv[1:] or ["cells"])[0]]():
        print(row, flush=True)
