"""Which micro-batches fit? The search, run on the bench."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from batchfinder.cache import Recalled, described, probe_remembering
from batchfinder.errors import NothingFits
from batchfinder.predict import first_guess
from batchfinder.probe import (
    SearchSpace,
    has_ended,
    latest,
    memory_line,
    probe,
)
from batchfinder.results import Limit, MemoryBreakdown, Outcome, ProbeResult, Stage, Trial
from batchfinder.run.bench import Bench
from batchfinder.run.isolate import IsolatedTrials
from batchfinder.run.trial import run_trial, run_undisturbed
from batchfinder.session import Call, stage
from batchfinder.training import Search
from batchfinder.units import format_bytes

__all__ = ["probe_sizes"]

_WORTH_A_GUESS = 64


def probe_sizes(call: Call, space: SearchSpace, search: Search) -> ProbeResult:
    """Run one micro-batch after another until the largest that fits is known.

    Raises:
        NothingFits: where the smallest size does not fit, with the bytes needed and had.
    """
    bench = call.bench
    with stage(call, Stage.PROBE, f"limit {format_bytes(bench.memory.limit_bytes())}"):
        bench.fresh()
        holdings = bench.breakdown()
        _check_holdings(holdings)
        searched = _space_on(bench, space, call.budget.share(0.1))
        bench.step.scale_learning_rate(0.0)
        recalled = _search(call, search, searched)
    evidence = latest(recalled.evidence)
    if not any(trial.fits for trial in evidence):
        raise NothingFits(_nothing_fits(evidence, holdings) + _neighbours(bench))
    largest = max(trial.batch_size for trial in evidence if trial.fits)
    if not recalled.ended:
        call.cut.append(f"the search ended at {largest}; larger batches were not tried")
    ordinary = _ordinary_peak(bench, largest)
    return ProbeResult(
        caveats=(
            *_about_lengths(evidence, ordinary),
            *_about_others(evidence),
            *_about_memory_of(search.cache, recalled),
        ),
        ordinary_peak_bytes=ordinary,
        trials=recalled.trials,
        memory=_with_line(holdings, evidence),
        limited_by=_limit_met(evidence, searched, space.ceiling),
        ceiling=searched.ceiling,
    )


def _search(call: Call, search: Search, space: SearchSpace) -> Recalled:
    bench = call.bench
    run: Callable[[int], Trial] = _trial_runner(bench)
    if search.isolate is not None:
        run = IsolatedTrials(search.isolate, memory_limit=bench.memory_limit)
    conduct: dict[str, Any] = {
        "propose": search.propose,
        "observe": call.observe,
        "enough": lambda: call.budget.is_spent(0.5),
    }
    if search.cache is None:
        trials = probe(run, space, **conduct)
        return Recalled(trials, trials, has_ended(trials, space, search.propose))
    return probe_remembering(
        run,
        space,
        path=search.cache,
        described=described(
            bench.step,
            bench.source,
            bench.memory,
            functions=bench.functions,
            versions={"torch": torch.__version__},
        ),
        **conduct,
    )


def _space_on(bench: Bench, space: SearchSpace, seconds: float | None) -> SearchSpace:
    """The space with what only the bench knows: its limit, its smallest size, its dataset."""
    ceilings = [each for each in (space.ceiling, bench.source.ceiling) if each is not None]
    ceiling = min(ceilings, default=None)
    return replace(
        space,
        start=max(space.start, bench.smallest_size()),
        floor=max(space.floor, bench.smallest_size()),
        ceiling=ceiling,
        limit_bytes=bench.memory.limit_bytes(),
        first_guess=space.first_guess or _guess(bench, ceiling, seconds),
    )


def _guess(bench: Bench, ceiling: int | None, seconds: float | None) -> int | None:
    """What fake tensors predict; below a low ceiling the trials themselves are cheaper."""
    if ceiling is not None and ceiling < _WORTH_A_GUESS:
        return None
    guess = first_guess(bench.step, bench.source, bench.memory, ceiling, seconds=seconds)
    bench.fresh()  # whatever the rehearsal left on the user's modules
    return guess


def _trial_runner(bench: Bench) -> Callable[[int], Trial]:
    def run(size: int) -> Trial:
        trial = run_trial(bench.step, bench.source, bench.memory, size)
        if not trial.fits:  # an aborted step leaves half a state behind
            bench.fresh()
            bench.step.scale_learning_rate(0.0)
        return trial

    return run


def _ordinary_peak(bench: Bench, size: int) -> int | None:
    """The peak of an ordinary batch, where the trials took the longest samples; else ``None``."""
    if not getattr(bench.source, "varies", False):
        return None
    source = bench.source.as_ordinary()  # type: ignore[attr-defined]  # goes with ``varies``
    return run_undisturbed(bench.step, source, bench.memory, size).peak_bytes


def _about_lengths(trials: tuple[Trial, ...], ordinary: int | None) -> tuple[str, ...]:
    if ordinary is None:
        return ()
    largest = max((each for each in trials if each.fits), key=lambda each: each.batch_size)
    return (
        f"the samples vary in length: the trials took the longest, {largest.batch_size} of which "
        f"peak at {format_bytes(largest.peak_bytes or 0)}; as many ordinary ones peak at "
        f"{format_bytes(ordinary)}",
    )


def _about_others(trials: tuple[Trial, ...]) -> tuple[str, ...]:
    """Of trials that were disturbed, when they were repeated too, and count all the same."""
    sizes = ", ".join(str(each.batch_size) for each in trials if each.disturbed)
    if not sizes:
        return ()
    return (
        f"another process took or freed memory on the device while batch {sizes} was tried: the "
        "largest size may be another without it. Call again when the device is yours alone",
    )


def _about_memory_of(cache: str | os.PathLike[str] | None, recalled: Recalled) -> tuple[str, ...]:
    if cache is None or not recalled.is_confirmed:
        return ()
    return (
        f"the largest size is that of an earlier call, remembered in {os.fspath(cache)}: one trial "
        "found that it still fits, and what is said of memory rests on the earlier trials too",
    )


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


def _neighbours(bench: Bench) -> str:
    """Who else holds memory on the device, where the back-end can tell."""
    told: Sequence[Any] = getattr(bench.memory, "other_processes", tuple)()
    if not told:
        return ""
    names = ", ".join(
        f"{each.name} (pid {each.pid}) {format_bytes(each.bytes or 0)}" for each in told
    )
    return f" Other processes on this device hold memory too: {names}."


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


def _limit_met(trials: tuple[Trial, ...], space: SearchSpace, own_ceiling: int | None) -> Limit:
    """What kept the largest size that fits from being larger."""
    ceiling = space.ceiling
    largest = max(trial.batch_size for trial in trials if trial.fits)
    above = [trial for trial in trials if trial.batch_size > largest and not trial.fits]
    if above:
        nearest = min(above, key=lambda trial: trial.batch_size)
        return Limit.INDEX if nearest.outcome is Outcome.INDEX_LIMIT else Limit.MEMORY
    if ceiling is None or largest < space.at_most(ceiling):
        return Limit.MEMORY
    return Limit.USER if own_ceiling is not None and ceiling == own_ceiling else Limit.DATASET
