"""The stages as find.py calls them: each takes the open bench and gives back frozen data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from batchfinder.errors import NothingFits
from batchfinder.measure import Effort, measure
from batchfinder.noise import NoiseFindings, noise_along_warmup
from batchfinder.predict import first_guess
from batchfinder.probe import Propose, SearchSpace, memory_line, probe
from batchfinder.protocols import Clock, NoiseEstimator, Observer
from batchfinder.results import (
    Limit,
    Measurement,
    MemoryBreakdown,
    Note,
    Outcome,
    ProbeResult,
    Stage,
    StageStarted,
    Trial,
)
from batchfinder.run.bench import Bench
from batchfinder.run.trial import run_trial
from batchfinder.timing import sizes_worth_measuring
from batchfinder.units import format_bytes

__all__ = ["Budget", "Call", "estimate_noise", "measure_sizes", "probe_sizes", "stage"]


@dataclass(frozen=True)
class Budget:
    """The seconds that the whole call may take, softly; ``None`` is no limit."""

    total_seconds: float | None = None
    clock: Clock = time.perf_counter
    started: float = field(default_factory=time.perf_counter)

    def left(self) -> float | None:
        if self.total_seconds is None:
            return None
        return max(0.0, self.total_seconds - (self.clock() - self.started))

    def share(self, part: float, most: float | None = None) -> float | None:
        """``part`` of what is left, never above ``most``."""
        left = self.left()
        if left is None:
            return most
        return part * left if most is None else min(most, part * left)


@dataclass(frozen=True)
class Call:
    """One call under way."""

    bench: Bench
    observe: Observer
    budget: Budget = field(default_factory=Budget)


@contextmanager
def stage(call: Call, which: Stage, detail: str = "") -> Iterator[None]:
    """Announce a stage, and say in a note on which stage an error of the user's code came up."""
    call.observe(StageStarted(which, detail))
    try:
        yield
    except Exception as error:
        error.add_note(f"batchfinder: this came up at the stage {which.name} ({which.value})")
        raise


def probe_sizes(
    call: Call, space: SearchSpace, *, propose: Propose, own_ceiling: int | None
) -> ProbeResult:
    """Run one micro-batch after another until the largest that fits is known.

    Raises:
        NothingFits: where the smallest size does not fit, with the bytes needed and had.
    """
    bench = call.bench
    with stage(call, Stage.PROBE, f"limit {format_bytes(bench.memory.limit_bytes())}"):
        bench.fresh()
        holdings = bench.breakdown()
        _check_holdings(holdings)
        bench.step.scale_learning_rate(0.0)
        smallest = _smallest_size(bench)
        space = replace(
            space,
            start=max(space.start, smallest),
            limit_bytes=bench.memory.limit_bytes(),
            first_guess=space.first_guess or first_guess(bench.step, bench.source, bench.memory),
        )
        trials = probe(_trial_runner(bench), space, propose=propose, observe=call.observe)
    if not any(trial.fits for trial in trials):
        raise NothingFits(_nothing_fits(trials, holdings))
    return ProbeResult(
        trials=trials,
        memory=_with_line(holdings, trials),
        limited_by=_limit_met(trials, space.ceiling, own_ceiling),
        ceiling=space.ceiling,
    )


def _trial_runner(bench: Bench) -> Callable[[int], Trial]:
    def run(size: int) -> Trial:
        trial = run_trial(bench.step, bench.source, bench.memory, size)
        if not trial.fits:  # an aborted step leaves half a state behind
            bench.fresh()
            bench.step.scale_learning_rate(0.0)
        return trial

    return run


def _smallest_size(bench: Bench) -> int:
    """2 where a batch norm in training mode needs two samples for a variance, else 1."""
    norms = torch.nn.modules.batchnorm._BatchNorm
    needs_two = any(
        isinstance(each, norms) and each.training
        for module in bench.step.modules()
        for each in module.modules()
    )
    return 2 if needs_two and bench.source.ceiling != 1 else 1


def _check_holdings(memory: MemoryBreakdown) -> None:
    held = _held_bytes(memory)
    if held > memory.limit_bytes:
        raise NothingFits(
            f"expected a limit above what the model holds without any batch; found a limit of "
            f"{format_bytes(memory.limit_bytes)} and a need of {format_bytes(held)} (parameters "
            f"{format_bytes(memory.parameter_bytes)}, buffers {format_bytes(memory.buffer_bytes)},"
            f" gradients {format_bytes(memory.gradient_bytes)}, optimizer state "
            f"{format_bytes(memory.optimizer_bytes)}). Raise memory_limit, or use a smaller model,"
            " lower precision or an optimizer with less state."
        )


def _held_bytes(memory: MemoryBreakdown) -> int:
    return (
        memory.parameter_bytes
        + memory.buffer_bytes
        + memory.gradient_bytes
        + memory.optimizer_bytes
    )


def _nothing_fits(trials: tuple[Trial, ...], memory: MemoryBreakdown) -> str:
    tried = min(trials, key=lambda trial: trial.batch_size)
    needed = f"more than {format_bytes(tried.peak_bytes)}" if tried.peak_bytes else "more"
    return (
        f"not even a micro-batch of {tried.batch_size} fits: it {tried.outcome.value}, needing "
        f"{needed} of {format_bytes(memory.limit_bytes)}, of which model, gradients and optimizer "
        f"state hold {format_bytes(_held_bytes(memory))}. Try activation checkpointing, lower "
        "precision (autocast=), a smaller input or a smaller model. Accumulation does not help: "
        "this is already the smallest micro-batch."
    )


def _with_line(memory: MemoryBreakdown, trials: tuple[Trial, ...]) -> MemoryBreakdown:
    line = memory_line(trials)
    return replace(
        memory,
        activation_bytes_per_sample=line.per_sample_bytes,
        other_bytes=max(0, int(line.fixed_bytes) - _held_bytes(memory)),
        fixed_bytes=int(line.fixed_bytes),
        per_sample_bytes=line.per_sample_bytes,
        fit_residual=line.residual,
    )


def _limit_met(trials: tuple[Trial, ...], ceiling: int | None, own_ceiling: int | None) -> Limit:
    """What kept the largest size that fits from being larger."""
    largest = max(trial.batch_size for trial in trials if trial.fits)
    above = [trial for trial in trials if trial.batch_size > largest and not trial.fits]
    if above:
        nearest = min(above, key=lambda trial: trial.batch_size)
        return Limit.INDEX if nearest.outcome is Outcome.INDEX_LIMIT else Limit.MEMORY
    if ceiling is None or largest < ceiling:
        return Limit.MEMORY
    return Limit.USER if own_ceiling is not None and ceiling == own_ceiling else Limit.DATASET


def measure_sizes(
    call: Call, probed: ProbeResult, *, base: int, headroom: float
) -> tuple[Measurement, ...]:
    """Time the sizes that could be recommended."""
    bench = call.bench
    largest = probed.max_batch_size
    memory = probed.memory
    inside = largest
    if memory.per_sample_bytes > 0:
        room = (1 - headroom) * memory.limit_bytes - memory.fixed_bytes
        inside = max(1, min(largest, int(room / memory.per_sample_bytes)))
    smallest = _smallest_size(bench)
    sizes = [size for size in sizes_worth_measuring(largest, inside, base) if size >= smallest]
    effort = Effort(budget_seconds=call.budget.share(0.4, Effort.budget_seconds) or 0.0)
    with stage(call, Stage.MEASURE, f"{len(sizes)} sizes from {sizes[0]} to {sizes[-1]}"):
        bench.fresh()
        return measure(
            bench.step, bench.source, bench.memory, sizes, effort=effort, observe=call.observe
        )


def estimate_noise(
    call: Call, estimator: NoiseEstimator, *, base: int, largest: int, warmup_steps: int
) -> NoiseFindings:
    """Train a short way for real, look at the noise along it, and put everything back."""
    bench = call.bench
    if bench.step.updates_itself:
        caveat = (
            "train_step returns None, so it does its own update: the gradients of one batch "
            "cannot be seen, and the gradient noise scale is absent"
        )
        call.observe(Note(caveat))
        return NoiseFindings(training=None, caveats=(caveat,))
    with stage(call, Stage.NOISE, f"{warmup_steps} warm-up steps at batch {base}"):
        bench.training()
        return noise_along_warmup(
            bench.step,
            bench.source,
            base_batch=base,
            micro_batch=min(base, largest),
            warmup_steps=warmup_steps,
            estimator=estimator,
            budget_seconds=call.budget.share(0.6),
            observe=call.observe,
        )
