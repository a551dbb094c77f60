"""Agreement of ten calls on a busy machine.

Of one training with one seed the noise scale is the same in every call; the timings are not. So
the timing of a whole call is repeated beside two processes that do nothing but compute, and the
recommendation made of each for a row of noise scales. Printed for each: how often which batch was
recommended, and the share of calls that keep the user's own or agree on the one they move to::

    python tests/benchmarks/busy.py [calls]   # docs/tables/busy.md; about five minutes

No rule was chosen on what this measures.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from batchfinder.demo import digits, network
from batchfinder.measure import Effort, measure
from batchfinder.protocols import Setup
from batchfinder.recommend import Problem, recommend
from batchfinder.results import Measurement, MemoryBreakdown, NoiseScale
from batchfinder.run.batches import source_from
from batchfinder.run.memory import backend_for
from batchfinder.run.step import step_from
from batchfinder.timing import sizes_worth_measuring

CALLS, HOGS, LARGEST = 10, 2, 1024
TABLE = Path(__file__).parent.parent.parent / "docs" / "tables" / "busy.md"
NOISE_SCALES = (50, 100, 200, 400, 800, 1600, 3200, 6400)
WIDE = 3.0
"""An interval's upper end over its middle: as after a usual warm-up."""


def trainings() -> Iterator[tuple[str, nn.Module, TensorDataset, int]]:
    """Name, model, data and the user's own batch size."""
    torch.manual_seed(0)
    yield "CNN on digits", network(), digits(), 32
    wide = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())
    yield (
        "perceptron",
        nn.Sequential(wide, nn.Linear(512, 10)),
        TensorDataset(torch.randn(4096, 64), torch.randint(10, (4096,))),
        64,
    )


@contextmanager
def kept_busy() -> Iterator[None]:
    """Beside processes that compute without end."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(HOGS)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def timings(
    model: nn.Module, data: TensorDataset, own: int, calls: int
) -> Iterator[tuple[Measurement, ...]]:
    """What ``calls`` calls measured."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    source = source_from(DataLoader(data, own, shuffle=True), seed=0)
    step = step_from(model, loss_fn=nn.CrossEntropyLoss(), optimizer=optimizer)
    memory = backend_for(torch.device("cpu"))
    for _ in range(calls):
        setup = Setup(step, source, memory)
        yield measure(setup, sizes_worth_measuring(LARGEST, own), first=own)


def recommended(measurements: Sequence[Measurement], own: int, critical: float) -> int:
    noise = NoiseScale(
        critical, critical / WIDE, critical * WIDE, 4096, "given", whole_training=True
    )
    memory = MemoryBreakdown(
        parameter_bytes=0,
        buffer_bytes=0,
        gradient_bytes=0,
        optimizer_bytes=0,
        other_bytes=0,
        limit_bytes=2**30,
    )
    problem = Problem(
        measurements,
        noise,
        base_batch=own,
        base_learning_rate=1e-3,
        max_batch_size=LARGEST,
        memory=memory,
        optimizer_family="adam",
        dataset_length=50_000,
        base_is_yours=True,
    )
    return recommend(problem).plan.global_batch


def table(calls: int) -> Iterator[str]:
    """One row a training and noise scale, and one of their mean."""
    yield "| training | noise scale | recommended, calls | agree or keep |"
    yield "|---|--:|---|--:|"
    for name, model, data, own in trainings():
        with kept_busy():
            found = list(timings(model, data, own, calls))
        shares = []
        for critical in NOISE_SCALES:
            chosen = Counter(recommended(each, own, critical) for each in found)
            moved = [count for batch, count in chosen.items() if batch != own]
            shares.append((chosen[own] + max(moved, default=0)) / calls)
            told = ", ".join(f"{batch}: {count}" for batch, count in sorted(chosen.items()))
            yield f"| {name}, own {own} | {critical:,} | {told} | {shares[-1]:.0%} |"
        yield f"| {name}, all | | | {fmean(shares):.0%}, at least {min(shares):.0%} |"


def page(rows: Sequence[str], calls: int, load: float) -> str:
    effort = Effort()
    return "\n".join(
        [
            "# Ten calls on a machine kept busy",
            "",
            f"Made by `tests/benchmarks/busy.py` beside {HOGS} processes that compute without end "
            f"and other work (load {load:.0f} at its end, {os.cpu_count()} cores). Timings of "
            f"{calls} calls, of {effort.budget_seconds:.0f} s each in visits of "
            f"{1000 * effort.visit_seconds:.0f} ms; the noise scale, which is the same for one "
            f"seed, is given, its interval a factor of {WIDE:.0f} to each side. The rule for "
            "timings that scatter was chosen on other recordings. The aim is nine of ten at every "
            "noise scale.",
            "",
            *rows,
            "",
        ]
    )


def main(calls: int) -> None:
    torch.set_num_threads(1)
    rows = []
    for row in table(calls):
        print(row, flush=True)
        rows.append(row)
    TABLE.write_text(page(rows, calls, os.getloadavg()[0]), encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else CALLS)
