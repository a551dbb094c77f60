"""Does a short warm-up predict the critical batch size of the whole run?

``python tests/benchmarks/noise_growth.py CELLS.jsonl WALKS.jsonl [TASK …]`` takes the sweeps that
``sweep.py`` left in CELLS.jsonl, fits B_crit in S(B) = S_min (1 + B_crit / B) to the steps to the
target (McCandlish et al. 2018, equation 5.2), takes warm-ups at the tuned rate of batch 32, and
prints how far each prediction is off: the error of B_crit (rms factor over tasks and seeds), the
regret of the size chosen with it (over step times 1 + B / knee), and predicted / fitted by task.
"Fitted" means a factor from the other tasks only. WALKS.jsonl keeps the warm-ups; what is in it is
not run again.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parent.parent / "support"))
from noise_cases import PlainStep, Population
from tasks import TASKS, Task

from batchfinder.noise import MicroBatchVariance, noise_along_warmup

BASE = 32
SEEDS = (0, 1, 2)
WARMUPS = (100, 200, 400)
KNEES = (32, 128, 512, 2048)
"""Step times 1 + B / knee: from a CPU, where every sample costs, to a wide GPU."""


@dataclass(frozen=True)
class Truth:
    """A task's fitted curve of steps over batch size."""

    critical: float
    fewest: float
    error: float
    rate: float
    steps: dict[int, float]

    def regret(self, phi: float, knee: float) -> float:
        """Time lost by choosing with ``phi`` in place of the measured steps."""
        predicted = {b: (1 + phi / b) * (1 + b / knee) for b in self.steps}
        real = {b: s * (1 + b / knee) for b, s in self.steps.items()}
        return real[min(predicted, key=lambda b: predicted[b])] / min(real.values()) - 1


def fitted(cells: list[dict[str, object]], task: Task) -> Truth | None:
    """The fit to the task's target; to another target that was swept, where that is not done."""
    targets = {row["target"] for row in cells if row.get("task") == task.name and "target" in row}
    for target in sorted(targets, key=lambda target: target != task.target):
        truth = fit(cells, task.name, target)
        if truth is not None:
            return truth
    return None


def fit(cells: list[dict[str, object]], name: str, target: object) -> Truth | None:
    """Best mean steps at each size, and the curve through their logarithms."""
    runs: dict[tuple[int, float], list[float]] = {}
    for row in cells:
        if row.get("task") == name and row.get("target") == target and "steps" in row:
            steps = math.inf if row["steps"] is None else float(str(row["steps"]))
            runs.setdefault((int(str(row["size"])), float(str(row["rate"]))), []).append(steps)
    best: dict[int, tuple[float, float]] = {}
    for (size, rate), steps in runs.items():
        mean = statistics.fmean(steps)
        if len(steps) >= 2 and mean < best.get(size, (math.inf, 0.0))[0]:
            best[size] = (mean, rate)
    if len(best) < 5 or BASE not in best:
        return None
    sizes = np.array(sorted(best))
    steps = np.array([best[size][0] for size in sizes])
    guesses = np.logspace(0, 5, 2001)
    logs = np.log(steps)[None] - np.log1p(guesses[:, None] / sizes[None])
    errors = logs.std(axis=1)
    at = int(errors.argmin())
    return Truth(
        critical=float(guesses[at]),
        fewest=float(np.exp(logs[at].mean())),
        error=float(errors[at]),
        rate=best[BASE][1],
        steps={int(size): value for size, (value, _) in best.items()},
    )


def step_of(task: Task, rate: float, seed: int) -> PlainStep:
    """The training step of a task at a rate, from its first weights."""
    torch.manual_seed(seed)
    model = task.make_model()
    optimizer = task.make_optimizer(model.parameters())
    for group in optimizer.param_groups:
        group["lr"] = rate
    return PlainStep(model, lambda model, batch: task.loss(model, list(batch)), optimizer)


def walked(task: Task, truth: Truth, steps: int, seed: int, plain: bool) -> dict[str, object]:
    """One warm-up at the base size and its tuned rate; ``plain``: in no optimizer's metric."""
    step = step_of(task, truth.rate, seed)
    if plain:
        step.optimizers = lambda: []  # type: ignore[method-assign]
    started = time.process_time()
    found = noise_along_warmup(
        step,
        Population(*task.data()[0].tensors, length=True),
        base_batch=BASE,
        micro_batch=BASE,
        warmup_steps=steps,
        estimator=MicroBatchVariance(),
        seed=1000 * seed,
    )
    points = [
        (point.after_steps, point.value, point.low, point.high, point.noise_trace,
         point.gradient_squared, point.samples)
        for point in found.points
    ]  # fmt: skip
    training = found.training
    assert training is not None
    return {
        "task": task.name, "steps": steps, "seed": seed, "rate": truth.rate, "plain": plain,
        "points": points, "predicted": (training.value, training.low, training.high),
        "caveats": found.caveats, "seconds": round(time.process_time() - started, 2),
    }  # fmt: skip


def rows_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def collect(path: Path, task: Task, truth: Truth) -> list[dict[str, object]]:
    """Warm-ups of several lengths, and one as long as the run to the target itself."""
    known = rows_of(path)
    rows = []
    whole = max(50, round(truth.steps[BASE]))
    kinds = (True, False) if task.family == "adam" else (True,)
    for steps, seed, plain in itertools.product((*WARMUPS, whole), SEEDS, kinds):
        key = {"task": task.name, "steps": steps, "seed": seed, "rate": truth.rate, "plain": plain}
        row = next((row for row in known if key.items() <= row.items()), None)
        if row is None:
            row = walked(task, truth, steps, seed, plain)
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        rows.append(row | {"whole": steps == whole})
    return rows


def late(row: dict[str, object]) -> float:
    """The noise scale of a warm-up's second half."""
    points = row["points"]
    assert isinstance(points, list)
    return float(points[-1][1])


def growth(row: dict[str, object]) -> float:
    """d log B / d log t, by least squares over the windows of a warm-up; 0 for a single window."""
    points = row["points"]
    assert isinstance(points, list)
    if len(points) < 2:
        return 0.0
    logs = np.log([[point[0], point[1]] for point in points])
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


@dataclass(frozen=True)
class Rule:
    """A prediction of B_crit from a warm-up: factor × late noise scale × growth^power."""

    name: str
    preconditioned: bool
    factor: float | None
    extrapolate: float = 0.0
    """Doublings over which the growth seen is carried on."""

    def picks(self, row: dict[str, object], adam: bool) -> bool:
        return row["plain"] is not (self.preconditioned and adam)

    def raw(self, row: dict[str, object]) -> float:
        slope = min(max(growth(row), 0.0), 1.0)
        return late(row) * 2 ** (self.extrapolate * slope)


ADAM = {task.name for task in TASKS if task.family == "adam"}
RULES = (
    *(Rule(f"late noise scale × {c:g}", False, c) for c in (1.0, 2.0, 3.0)),
    Rule("late noise scale × fitted on the other tasks", False, None),
    Rule("growth carried on two doublings × fitted", False, None, 2.0),
    *(Rule(f"in the optimizer's metric × {c:g}", True, c) for c in (1.0, 1.5, 2.0, 3.0)),
    Rule("in the optimizer's metric × fitted on the other tasks", True, None),
    Rule("in the optimizer's metric, growth two doublings × fitted", True, None, 2.0),
    Rule("what is shipped", True, math.nan),
)


def scored(rule: Rule, rows: dict[str, list[dict[str, object]]], truths: dict[str, Truth]) -> str:
    """Errors of one rule: each task predicted with a factor from the other tasks only."""
    logs: dict[str, list[float]] = {}
    for name, walks in rows.items():
        chosen = [row for row in walks if rule.picks(row, name in ADAM)]
        if rule.factor is not None and math.isnan(rule.factor):
            values = [float(row["predicted"][0]) for row in chosen]  # type: ignore[index]
        else:
            values = [(rule.factor or 1.0) * rule.raw(row) for row in chosen]
        logs[name] = [math.log(value / truths[name].critical) for value in values]
    if rule.factor is None:
        means = {name: statistics.fmean(errors) for name, errors in logs.items()}
        for name, errors in logs.items():
            others = [mean for other, mean in means.items() if other != name]
            shift = statistics.fmean(others)
            logs[name] = [error - shift for error in errors]
    flat = [error for errors in logs.values() for error in errors]
    regrets = [
        truths[name].regret(math.exp(error) * truths[name].critical, knee)
        for name, errors in logs.items() for error in errors for knee in KNEES
    ]  # fmt: skip
    by_task = [f"{math.exp(statistics.fmean(errors)):.2f}" for errors in logs.values()]
    rms = math.exp(math.sqrt(statistics.fmean(error**2 for error in flat)))
    regret = [f"{statistics.fmean(regrets):.3f}", f"{max(regrets):.2f}"]
    return " | ".join([f"| {rule.name}", f"× {rms:.2f}", *regret, *by_task, ""]).rstrip()


def main() -> None:
    torch.set_num_threads(1)
    cells = rows_of(Path(sys.argv[1]))
    names = sys.argv[3:]
    truths, rows = {}, {}
    for task in TASKS:
        truth = fitted(cells, task)
        if truth is None or (names and not any(name in task.name for name in names)):
            continue
        truths[task.name] = truth
        rows[task.name] = collect(Path(sys.argv[2]), task, truth)
        print(f"\n{task.name}: B_crit {truth.critical:.0f} (fit within {truth.error:.0%}), "
              f"{truth.steps[BASE]:.0f} steps at batch {BASE}, rate {truth.rate:g}")  # fmt: skip
        for row in rows[task.name]:
            points = row["points"]
            assert isinstance(points, list)
            shown = "  ".join(f"@{p[0]} {p[1]:.0f} [{p[2]:.0f}, {p[3]:.0f}]" for p in points)
            kind = "plain " if row["plain"] else "metric"
            print(f"  {'run ' if row['whole'] else '    '}{kind} seed {row['seed']}: {shown} "
                  f"({row['seconds']} s) {row['caveats'] or ''}")  # fmt: skip
    for steps in WARMUPS:
        print(f"\n### After {steps} steps\n\n| prediction | error | mean regret | worst |",
              " | ".join(rows), "|\n|---|" + "--:|" * (len(rows) + 3))  # fmt: skip
        for rule in RULES:
            some = {
                name: [row for row in walks if row["steps"] == steps and not row["whole"]]
                for name, walks in rows.items()
            }
            print(scored(rule, some, truths))
        inside = [
            float(row["predicted"][1]) <= truths[name].critical <= float(row["predicted"][2])  # type: ignore[index]
            for name, walks in some.items() for row in walks
            if RULES[-1].picks(row, adam=name in ADAM)
        ]  # fmt: skip
        print(f"\nThe shipped interval holds B_crit in {sum(inside)} of {len(inside)} warm-ups.")


if __name__ == "__main__":
    main()
