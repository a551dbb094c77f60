"""What batchfinder tells a user: one task at a base pair, as find_batch_size sets it up."""

from __future__ import annotations

from dataclasses import replace

import torch
from regret_table import BASE, Pair
from sweep import Cells
from tasks import Task
from torch.utils.data import DataLoader

from batchfinder.confirm import OwnPair, confirm, confirm_recommendation
from batchfinder.noise import MicroBatchVariance, noise_along_warmup
from batchfinder.protocols import Setup
from batchfinder.race import Race, Raced, race_rates, steps_at
from batchfinder.recommend import Problem, recommend
from batchfinder.results import (
    BatchPlan,
    Confirmation,
    Measurement,
    MemoryBreakdown,
    NoiseScale,
    RaceResult,
)
from batchfinder.run.batches import source_from
from batchfinder.run.memory import backend_for
from batchfinder.run.state import preserved
from batchfinder.run.step import step_from
from batchfinder.scaling import critical_batch_size

__all__ = ["Bench", "Times", "noise_of", "recommended_pair"]

Times = dict[int, float]
REMEASURED = 4.0
"""From this factor on the noise scale is measured again, as in a call."""


class Bench:
    """The user's model, optimizer and loader, and the step and batches made of them."""

    def __init__(self, task: Task, rate: float, seed: int) -> None:
        torch.manual_seed(seed)
        model = task.make_model()
        self.optimizer = task.make_optimizer(model.parameters())
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model = model
        self.seed = seed
        self.memory = backend_for(torch.device("cpu"))
        loader = DataLoader(task.data()[0], batch_size=BASE, shuffle=True, drop_last=True)
        self.source = source_from(loader, seed=seed)
        self.step = step_from(model, train_step=task.loss, optimizer=self.optimizer)
        self.setup = Setup(self.step, self.source, self.memory)

    def race(
        self,
        plan: BatchPlan,
        rate: float,
        run_steps: float | None,
        *,
        averaged: bool = False,
        steps: int | None = None,
    ) -> RaceResult:
        """The product's race from the weights as they are, which are put back."""
        with preserved(self.model, self.optimizer) as snapshot:

            def start(at: float) -> None:
                snapshot.restore()
                torch.manual_seed(self.seed)
                self.step.set_learning_rate(at)

            return race_rates(
                self.setup,
                plan,
                rate,
                race=Race(steps=steps),
                start=start,
                run_steps=run_steps,
                averaged=averaged,
                seed=self.seed,
            )


def noise_of(cells: Cells, task: Task, rate: float, seed: int) -> NoiseScale | None:
    key = {"kind": "noise", "task": task.name, "rate": rate, "seed": seed}
    for row in cells.find(**key):
        return None if row["value"] is None else _noise(row)
    cells.check_time()
    bench = Bench(task, rate, seed)
    found = noise_along_warmup(
        bench.step,
        bench.source,
        base_batch=BASE,
        micro_batch=BASE,
        warmup_steps=200,
        estimator=MicroBatchVariance(),
        seed=seed,
    ).training
    values = (None,) * 3 if found is None else (found.value, found.low, found.high)
    row = cells.add(**key, **dict(zip(("value", "low", "high"), values, strict=True)))
    return None if found is None else _noise(row)


def _noise(row: dict[str, object]) -> NoiseScale:
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    return NoiseScale(value, low, high, samples=0, estimator="micro-batch variance")


def problem_of(task: Task, times: Times, rate: float, noise: NoiseScale | None) -> Problem:
    largest = max(task.sizes)
    return Problem(
        tuple(
            Measurement(size, size / t, size / t, size / t, t, t, 0.0) for size, t in times.items()
        ),
        noise,
        base_batch=BASE,
        base_learning_rate=rate,
        max_batch_size=largest,
        memory=MemoryBreakdown(0, 0, 0, 0, 1.0, 0, largest, per_sample_bytes=1.0),
        headroom=0.0,
        dataset_length=len(task.data()[0]),
        optimizer_family=task.family,
    )


def recommended_pair(
    cells: Cells,
    task: Task,
    profile: str,
    times: Times,
    base: Pair,
    *,
    seed: int,
    training_steps: int | None = None,
    averaged: bool = False,
) -> Pair:
    """The pair after confirmation, from the weights at the start as find_batch_size does it.

    With ``training_steps``, of the run at the base batch, the rate is raced for first, and judged
    by ``averaged`` weights where the run's rate decays.
    """
    noise = noise_of(cells, task, base.rate, seed)
    whole = problem_of(task, times, base.rate, noise)
    found = recommend(whole)
    size, rate = found.plan.global_batch, float(found.learning_rate)
    key = {"kind": "confirmed", "task": task.name, "size": size, "rate": rate, "seed": seed}
    key |= {"profile": profile} | ({"raced": training_steps} if training_steps else {})
    key |= {"averaged": True} if averaged and training_steps else {}
    for row in cells.find(**key):
        if bool(training_steps) == ("raced" in row) and bool(key.get("averaged")) == (
            "averaged" in row
        ):
            return Pair(row["to_size"], row["to_rate"], times[row["to_size"]])
    cells.check_time()
    bench = Bench(task, base.rate, seed)
    own, outcome = OwnPair(BASE, base.rate), {}
    if training_steps:
        at = {"base_batch": BASE, "base_steps": training_steps}
        run_steps = steps_at(size, critical=critical_batch_size(noise), **at)
        race = bench.race(found.plan, rate, run_steps, averaged=averaged)
        outcome |= {
            "race_steps": race.steps_taken,
            "race_refusal": race.refusal and race.refusal.code,
        }
        if race.best_rate is not None:
            whole = replace(
                whole,
                rule=Raced(whole.rate_rule, race.batch, race.learning_rate),
                rate_is_measured=True,
            )
            own = OwnPair(race.batch, race.learning_rate, is_measured=True)
            if max(race.factor, 1 / race.factor) >= REMEASURED:
                again = noise_of(cells, task, base.rate * race.factor, seed)
                whole = whole if again is None else whole.at_noise(again)
    with preserved(bench.model, bench.optimizer) as snapshot:

        def run(plan: BatchPlan, at: float | None) -> Confirmation:
            return confirm(bench.setup, plan, at, fresh=snapshot.restore)

        settled, evidence = confirm_recommendation(whole, run, own=own)
    to = {"to_size": settled.plan.global_batch, "to_rate": float(settled.learning_rate)}
    outcome |= {"judgement": evidence.judgement.name, "lead": evidence.double_rate_lead}
    cells.add(**key, **to, **outcome)
    return Pair(to["to_size"], to["to_rate"], times[to["to_size"]])
