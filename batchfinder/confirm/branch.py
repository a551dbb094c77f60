"""Real training steps of one plan at one rate, watched, and how they are judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from statistics import fmean, median, stdev

import torch

from batchfinder.meter import unmetered
from batchfinder.protocols import Advance, Batch, MemoryBackend, Setup, TrainStep
from batchfinder.rates import UpdateEffect
from batchfinder.results import BatchPlan, Judgement
from batchfinder.run.attempt import Shortage, attempt
from batchfinder.run.oom import Verdict
from batchfinder.run.trial import tensors_in

__all__ = [
    "ALLOWANCE_AT_TWICE",
    "FEWEST_STEPS",
    "HALVINGS",
    "MOSTLY",
    "MOST_ATTEMPTS",
    "SMALLEST_RAISE",
    "STEPS",
    "WORTHWHILE_LEAD",
    "Trace",
    "judge",
    "judge_updates",
    "lead",
    "run_branch",
]


_RISE, _SPREADS = 3.0, 2.0
_ROUNDING = 2.0**-23
"""Of single precision: a loss of exactly 0 may become as much."""


@dataclass(frozen=True)
class Trace:
    """``opening``: losses of some batches before any update; ``losses``: one per step after.

    ``failure`` is what ended it early, ``detail`` what the device said then.
    """

    opening: tuple[float, ...]
    losses: tuple[float, ...]
    failure: Judgement | None = None
    detail: str = ""
    peak_bytes: int | None = None

    @property
    def first(self) -> float:
        return fmean(self.opening) if self.opening else math.nan

    @property
    def last(self) -> float:
        """The mean of the last quarter."""
        return fmean(_last(self.losses, 4)) if self.losses else math.nan

    @property
    def says_nothing(self) -> bool:
        """Whether no loss was ever seen: a step that returns none."""
        return all(map(math.isnan, (*self.opening, *self.losses)))


def judge(trace: Trace, allowance: float = 0.0) -> Judgement:
    """Whether a trace ran out of memory, is not finite, ran away, or swings ever wider.

    The mean of the last quarter may lie ``allowance`` · |start| above the start, plus twice its
    standard error as the batches of the opening scatter.
    """
    if trace.failure is not None:
        return trace.failure
    if trace.says_nothing or not trace.losses:
        return Judgement.NO_LOSS
    if not all(map(math.isfinite, (*trace.opening, *trace.losses))):
        return Judgement.NOT_FINITE
    start, end = trace.first, trace.last
    allowed = start + allowance * abs(start) + _SPREADS * _standard_error(trace)
    if end > allowed + _ROUNDING:
        return Judgement.ROSE
    return Judgement.OSCILLATED if _swings_wider(trace.losses) else Judgement.HELD


def judge_updates(
    judgement: Judgement, effect: UpdateEffect, *, rate: float | None, by_itself: bool
) -> Judgement:
    """``judgement``; a loss that went well says nothing of updates that were not made.

    Args:
        judgement: of the losses.
        effect: what the updates did.
        rate: that was set; ``None`` where none was.
        by_itself: whether the step updates by itself: as often as it likes then.
    """
    if not judgement.is_good:
        return judgement
    half_missing = not by_itself and 2 * effect.left_out > effect.updates
    if effect.updates and (half_missing or not effect.parameters_moved):
        return Judgement.NO_UPDATE
    return judgement if rate is None or effect.rate_was_used else Judgement.RATE_NOT_KEPT


def lead(once: Trace, twice: Trace) -> float | None:
    """How much further ``twice`` fell than ``once``, as a share of the fall of ``once``.

    Two standard errors below the mean over the last quarter, where both saw the same batches, so
    that their difference scatters less than either; as a share of the fall and two standard
    errors of it. ``None`` where nothing fell.
    """
    fall = max(0.0, once.first - once.last) + _SPREADS * _standard_error(once)
    pairs = zip(_last(once.losses, 4), _last(twice.losses, 4), strict=True)
    ahead = [a - b for a, b in pairs]
    if not fall > 0 or len(ahead) < 2:
        return None
    return (fmean(ahead) - _SPREADS * stdev(ahead) / math.sqrt(len(ahead))) / fall


def _standard_error(trace: Trace) -> float:
    if len(trace.opening) < 2:
        return 0.0
    counts = 1 / len(trace.opening) + 1 / len(_last(trace.losses, 4))
    return stdev(trace.opening) * math.sqrt(counts)


def _swings_wider(losses: Sequence[float]) -> bool:
    """Whether steps between losses have grown threefold from the middle third to the last.

    Medians, so that one odd batch is no swing; and only where the level does not fall.
    """
    if len(losses) < 12:
        return False
    third = len(losses) // 3
    middle, last = losses[third : 2 * third], losses[2 * third :]
    return _swing(last) > _RISE * _swing(middle) and fmean(last) > fmean(middle)


def _swing(losses: Sequence[float]) -> float:
    return median(abs(b - a) for a, b in pairwise(losses))


def _last(losses: Sequence[float], parts: int) -> Sequence[float]:
    return losses[-max(1, len(losses) // parts) :]


STEPS = 40
"""Steps of one branch; over fewer, a lead is not looked at."""
FEWEST_STEPS = 10
"""With time for fewer, nothing is confirmed."""
ALLOWANCE_AT_TWICE = 0.05
"""At twice the rate the loss may end this share above its start (tests/benchmarks/regret.py)."""
HALVINGS = 3
"""How often a rate is halved before another size is tried."""
MOST_ATTEMPTS = 8
MOSTLY = 0.9
"""From this share of clipped updates on, the threshold decides how far they go."""
WORTHWHILE_LEAD = 0.1
"""A rate is raised where twice the rate led by this share (tests/benchmarks/regret.py)."""
SMALLEST_RAISE = 1.05
"""A rate that could be raised by less is left as it is."""


OPENING = 8
"""Batches whose loss is read before the first update."""
LONGEST_AT = 1
"""The step that takes the longest batch: the second, when the optimizer's state exists."""

FAILURES = {
    Verdict.OUT_OF_MEMORY: Judgement.OUT_OF_MEMORY,
    Verdict.INDEX_LIMIT: Judgement.INDEX_LIMIT,
}


@dataclass
class _Record:
    """Losses so far, still on the device, and the peak of the memory."""

    opening: list[torch.Tensor] = field(default_factory=list)
    losses: list[torch.Tensor] = field(default_factory=list)
    retries_when_settled: int | None = None
    """The allocator's retries half-way: those before were its cache settling."""

    peak: int | None = None
    """``None`` where memory was not watched."""

    @contextmanager
    def watching(self, memory: MemoryBackend, step: TrainStep) -> Iterator[None]:
        """Watch, and read the peak before a clean-up could change what the memory says."""
        try:
            with memory.watch(step.holdings()):
                yield
        except Exception:  # not Ctrl-C, which waits for no other rank
            self.peak = memory.peak_bytes()
            raise
        self.peak = memory.peak_bytes()

    def trace(self, failure: Judgement | None = None, detail: str = "") -> Trace:
        opening, losses = ([float(loss) for loss in part] for part in (self.opening, self.losses))
        return Trace(tuple(opening), tuple(losses), failure, detail, self.peak)


def run_branch(
    setup: Setup[TrainStep],
    plan: BatchPlan,
    batches: Iterator[Batch],
    *,
    steps: int,
    ramp: int,
    watched: bool = True,
    advance: Advance = unmetered,
) -> Trace:
    """``steps`` optimizer steps on ``batches``, the rate rising linearly over ``ramp``.

    No cache is emptied between steps, and the second step takes the longest batch there is; its
    loss is left out of the trace. The rate is what ``step`` has now; weights move. Memory need not
    be ``watched`` where that counts every operator, and the plan has run so before.

    Raises:
        DeviceLost: where the device cannot be used again in this process.
        Exception: a mistake in the user's code, as itself, with a note.
    """
    step, source, memory = setup.step, setup.source, setup.memory
    memory.release()  # what earlier stages left in the cache is no pressure of this plan's
    memory.reset_peak()
    record = _Record()
    ordinary, longest = partial(next, batches), partial(source.take, plan.micro_batch)
    if watched:
        ordinary, longest = (partial(_drawn, memory, draw) for draw in (ordinary, longest))
    try:
        with (
            attempt(step, plan.micro_batch, "the confirmation", memory=memory),
            record.watching(memory, step) if watched else nullcontext(),
            step.ranks.guarded("the confirmation"),
        ):
            for _ in range(OPENING):
                step.zero_grad()
                record.opening.append(step.forward_backward(ordinary()))
                advance(plan.micro_batch, steps=0)
                if step.updates_itself:  # it gives no loss without an update
                    break
            step.zero_grad()
            for number in range(steps):
                if number == steps // 2:
                    record.retries_when_settled = memory.pressure()
                draw = longest if number == LONGEST_AT else ordinary
                with _at(step, min(1.0, (number + 1) / max(1, ramp))):
                    step.zero_grad()
                    losses = []
                    for _ in range(plan.accumulation_steps):
                        losses.append(
                            step.forward_backward(draw(), scale=1 / plan.accumulation_steps)
                        )
                    step.update()
                advance(plan.micro_batch * plan.accumulation_steps)
                if draw is ordinary:
                    record.losses.append(torch.stack(losses).mean())
                    if not bool(torch.isfinite(record.losses[-1])) and not step.updates_itself:
                        break
            memory.synchronize()
    except Shortage as shortage:
        return record.trace(FAILURES[shortage.verdict], shortage.message[:200])
    step.zero_grad()
    if record.retries_when_settled is not None and memory.pressure() > record.retries_when_settled:
        return record.trace(Judgement.AT_THE_EDGE)
    return record.trace()


def _drawn(memory: MemoryBackend, draw: Callable[[], Batch]) -> Batch:
    """A batch as in a trial: its making is the loader's and not counted, itself is."""
    with memory.paused():
        batch = draw()
    memory.hold(tensors_in(batch))
    return batch


@contextmanager
def _at(step: TrainStep, share: float) -> Iterator[None]:
    """The step at a share of its rate."""
    step.scale_learning_rate(share)
    try:
        yield
    finally:
        step.scale_learning_rate(1 / share)
