"""Which micro-batches fit? The search, run on the bench."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from batchfinder.cache import Recalled, described, probe_remembering
from batchfinder.errors import InvalidArgument, NothingFits
from batchfinder.predict import first_guess
from batchfinder.probe import (
    SearchSpace,
    guided,
    has_ended,
    latest,
    not_tried_for_time,
    probe,
    step_seconds_at,
    within_time,
)
from batchfinder.probe.loop import (
    about_fragmentation,
    about_lengths,
    about_others,
    about_time,
    held_bytes,
    limit_met,
    with_line,
)
from batchfinder.probe.runner import steps_of_trial, trial_runner
from batchfinder.protocols import Setup
from batchfinder.results import (
    Limit,
    MemoryBreakdown,
    ProbeResult,
    Stage,
    Trial,
    TrialStarted,
)
from batchfinder.run.bench import Bench
from batchfinder.run.isolate import IsolatedTrials
from batchfinder.run.memory import may_expand
from batchfinder.run.trial import run_undisturbed
from batchfinder.session import Call, stage
from batchfinder.training import Search
from batchfinder.units import format_bytes
from batchfinder.wording import Caveat

__all__ = ["probe_sizes"]

_WORTH_A_GUESS = 64
_BUDGET_SHARE = 0.1
"""Of a budget of the caller's: a step that takes longer is not tried."""
_DEFAULT_SECONDS = 3.0
_OWN_STEPS = 8
"""Without one, a step is not tried that takes longer than this, and than so many of their own."""


def probe_sizes(call: Call, search: Search, *, step_seconds: float | None = None) -> ProbeResult:
    """Run one micro-batch after another until the largest that fits is known.

    No size but the user's own is run whose step would take longer than ``step_seconds``, or than a
    tenth of the call's budget; under the default one, than 3 s and 8 of the user's own steps.

    Raises:
        NothingFits: where the smallest size does not fit, with the bytes needed and had.
    """
    bench = call.bench
    own = bench.source.base_batch_size
    with stage(call, Stage.PROBE, f"limit {format_bytes(bench.memory.limit_bytes())}"):
        bench.fresh()
        holdings = bench.breakdown()
        _check_holdings(holdings)
        by_time = step_seconds is not None and search.isolate is None and search.propose is guided
        searched = _space_on(bench, call.budget.share(0.1), by_time=by_time)
        bench.step.scale_learning_rate(0.0)
        run: Callable[[int], Trial] = trial_runner(bench)
        if search.isolate is not None:
            if not bench.step.ranks.alone:
                raise InvalidArgument(
                    "expected a search without isolate= on several ranks; found one with it: a "
                    "trial in a separate process cannot join their collectives. Leave isolate= out"
                )
            run = IsolatedTrials(search.isolate, memory_limit=bench.memory_limit, space=bench.space)
        conduct = _conduct(call, search, step_seconds)
        if search.cache is None:
            trials = probe(run, searched, **conduct)
            recalled = Recalled(trials, trials, has_ended(trials, searched, conduct["propose"]))
        else:
            what = described(
                bench.setup, functions=bench.functions, versions={"torch": torch.__version__}
            )
            what["patience"] = str(_patience(call, step_seconds))
            recalled = probe_remembering(
                run,
                searched,
                path=search.cache,
                described=what,
                ranks=bench.step.ranks,
                **conduct,
            )
        _tell_own_step(call, recalled.trials)
    end = _end_met(bench)
    trials = tuple(trial for trial in recalled.trials if trial.batch_size <= end)
    evidence = tuple(trial for trial in latest(recalled.evidence) if trial.batch_size <= end)
    if not any(trial.fits for trial in evidence):
        raise NothingFits(_nothing_fits(evidence, holdings) + _neighbours(bench))
    largest = max(trial.batch_size for trial in evidence if trial.fits)
    slow = None
    at_end = end < math.inf and largest == searched.at_most(int(end))
    if recalled.ended and not at_end and (patience := _patience(call, step_seconds)) is not None:
        slow = not_tried_for_time(evidence, searched, search.propose, patience, own)
    limit = limit_met(evidence, searched, bench.space.ceiling)
    if slow is not None or not recalled.ended:
        limit = Limit.TIME
    elif at_end:
        limit = Limit.DATASET
    ordinary = _ordinary_peak(bench, largest)
    memory = with_line(holdings, evidence)
    remembered = []
    if search.cache is not None and recalled.is_confirmed:
        remembered.append(Caveat("probe.remembered", path=os.fspath(search.cache)))
    return ProbeResult(
        caveats=(
            *about_time(slow),
            *about_fragmentation(memory, largest, may_expand=may_expand(bench.step.device)),
            *about_lengths(evidence, ordinary),
            *about_others(evidence),
            *remembered,
            *(() if recalled.ended else (call.cut_short("session.search", largest=largest),)),
        ),
        ordinary_peak_bytes=ordinary,
        trials=trials,
        memory=memory,
        limited_by=limit,
        ceiling=searched.ceiling,
    )


def _end_met(bench: Bench) -> float:
    """The samples of a stream whose end was met on the way; ``inf`` where none was.

    Larger batches were tried on repeated samples, but the loader yields none such.
    """
    length = bench.source.length
    return math.inf if bench.source.ceiling is not None or length is None else length


def _patience(call: Call, step_seconds: float | None) -> float | None:
    """The longest step that may be tried, in seconds."""
    share: float | None = None
    if call.budget.total_seconds is not None:
        share = _BUDGET_SHARE * call.budget.total_seconds
    elif call.budget.has_default:
        share = max(_DEFAULT_SECONDS, _OWN_STEPS * call.budget.own_step_seconds)
    return min((each for each in (step_seconds, share) if each is not None), default=None)


def _tell_own_step(call: Call, trials: Sequence[Trial]) -> None:
    """What a step of the user's own size takes, once a size near it or none larger has run."""
    own = call.bench.source.base_batch_size
    near = own is not None and any(2 * trial.batch_size >= own for trial in trials)
    seconds = step_seconds_at(trials, own) if own is not None and near else None
    if seconds is not None:
        call.own_step_takes(seconds)


def _conduct(call: Call, search: Search, step_seconds: float | None) -> dict[str, Any]:
    """How the search goes on and ends, each trial announced before it runs."""

    def announce(size: int, trials: Sequence[Trial]) -> None:
        step = step_seconds_at(trials, size)
        call.observe(
            TrialStarted(size, None if step is None else steps_of_trial(call.bench, step) * step)
        )
        _tell_own_step(call, trials)

    def propose(trials: Sequence[Trial], space: SearchSpace) -> int | None:
        patience = _patience(call, step_seconds)
        own = call.bench.source.base_batch_size
        within = search.propose if patience is None else within_time(search.propose, patience, own)
        size, end = within(trials, space), _end_met(call.bench)
        beyond = any(trial.fits and trial.batch_size > end for trial in trials)
        if (size is not None and size <= end) or (size is None and not beyond):
            return size
        last = space.at_most(int(end))  # the largest that the loader can fill
        return None if any(trial.batch_size == last for trial in trials) else last

    return {
        "propose": propose,
        "before": announce,
        "observe": call.observe,
        "enough": lambda: call.budget.is_spent(0.5),
        "own": call.bench.source.base_batch_size,
    }


def _space_on(bench: Bench, seconds: float | None, *, by_time: bool) -> SearchSpace:
    """The sizes that may be tried, with the limit and where to look first.

    There is no guess where the search goes up ``by_time``: its small trials cost less than a
    rehearsal, and are those of sizes that are timed later.
    """
    sizes = bench.sizes
    guess = None if by_time else _guess(bench, sizes, seconds)
    return replace(
        sizes,
        start=max(sizes.start, sizes.floor),
        limit_bytes=bench.memory.limit_bytes(),
        first_guess=sizes.first_guess or guess,
    )


def _guess(bench: Bench, sizes: SearchSpace, seconds: float | None) -> int | None:
    """What fake tensors predict, where that is cheaper than the trials that it saves.

    Not so on a device of its own, whose small steps take milliseconds and a rehearsal seconds (3 to
    4 s for a ResNet-50 and a GPT-2 small on an H200), nor below a low ceiling.
    """
    if sizes.ceiling is not None and sizes.ceiling < _WORTH_A_GUESS:
        return None
    if bench.memory.reserved_peak_bytes() is not None:
        return None
    if not bench.step.ranks.alone:  # a rehearsal would begin the wrapper's collectives
        return None
    guess = first_guess(bench.setup, sizes, seconds=seconds)
    bench.fresh()  # whatever the rehearsal left on the user's modules
    return guess


def _ordinary_peak(bench: Bench, size: int) -> int | None:
    """The peak of an ordinary batch, where the trials took the longest samples; else ``None``."""
    if not bench.source.varies:
        return None
    source = bench.source.as_ordinary()
    return run_undisturbed(Setup(bench.step, source, bench.memory), size).peak_bytes


def _check_holdings(memory: MemoryBreakdown) -> None:
    held = held_bytes(memory)
    if held > memory.limit_bytes:
        raise NothingFits(
            "expected a limit above the memory that the model needs without a batch; found a "
            "limit of "
            f"{format_bytes(memory.limit_bytes)} and a need of {format_bytes(held)} (parameters "
            f"{format_bytes(memory.parameter_bytes)}, buffers {format_bytes(memory.buffer_bytes)},"
            f" gradients {format_bytes(memory.gradient_bytes)}, optimizer state "
            f"{format_bytes(memory.optimizer_bytes)}). Raise memory_limit, or use a smaller model,"
            " lower precision or an optimizer with less state."
        )


def _nothing_fits(trials: tuple[Trial, ...], memory: MemoryBreakdown) -> str:
    tried = min(trials, key=lambda trial: trial.batch_size)
    needed = f"more than {format_bytes(tried.peak_bytes)}" if tried.peak_bytes else "more"
    return (
        f"not even a micro-batch of {tried.batch_size} fits: it {tried.outcome.words}, needing "
        f"{needed} of {format_bytes(memory.limit_bytes)}, of which model, gradients and optimizer "
        f"state hold {format_bytes(held_bytes(memory))}. Try activation checkpointing, lower "
        "precision (autocast=), a smaller input or a smaller model. Accumulation does not help: "
        "this is already the smallest micro-batch."
    )


def _neighbours(bench: Bench) -> str:
    """Who else holds memory on the device, where the back-end can tell."""
    told = bench.memory.other_processes()
    if not told:
        return ""
    names = ", ".join(
        f"{each.name} (pid {each.pid}) {format_bytes(each.bytes or 0)}" for each in told
    )
    return f" Other processes on this device hold memory too: {names}."
