"""One training of the study: a fresh model at one size, rate and seed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from statistics import fmean

from batchfinder.compare.data import Cell, Ending, Look
from batchfinder.compare.recipe import Fresh, Recipe
from batchfinder.errors import InvalidArgument
from batchfinder.keywords import options_named
from batchfinder.protocols import Batch, Clock
from batchfinder.run.attempt import Shortage, attempt
from batchfinder.run.memory import backend_for

__all__ = ["Rules", "Stopping", "train_cell"]

_METRIC_BATCHES = 4
"""The metric on the training set is that of so many batches, the last that were trained on."""

RAN_AWAY, OPENING = 3.0, 10
"""Ten losses in a row above three times the highest of the first ten are a divergence."""


@options_named
@dataclass(frozen=True)
class Stopping:
    """Criteria for ending a training of a study early.

    Attributes:
        target_loss: the loss to which times are measured. Default: the lowest loss that every
            training which used all its samples reached.
        patience: with ``target_loss``, a training ends if it takes this many times as long as the
            fastest so far without reaching the target.
        early_stopping: number of validations without a lower loss (on the validation loader, if
            there is one) after which a training ends. Default: never.

    Raises:
        InvalidArgument: an invalid value.
    """

    target_loss: float | None = None
    patience: float = 3.0
    early_stopping: int | None = None

    def __post_init__(self) -> None:
        if not self.patience >= 1:
            raise InvalidArgument(
                "expected patience to be a factor of at least 1; found "
                f"{self.patience!r}: write 3 for three times the fastest"
            )
        if self.early_stopping is not None and not self.early_stopping >= 1:
            raise InvalidArgument(
                "expected early_stopping to be a number of looks, at least 1; found "
                f"{self.early_stopping!r}: leave it out to stop no training early"
            )

    def no_longer_improves(self, curve: list[Look]) -> bool:
        """Whether the lowest loss is ``early_stopping`` looks or more behind."""
        if self.early_stopping is None:
            return False
        losses = [look.loss for look in curve]
        return len(losses) - 1 - losses.index(min(losses)) >= self.early_stopping

    def is_hopeless(self, curve: list[Look], fastest: float) -> bool:
        """Whether it has taken ``patience`` times as long as the fastest, without the target."""
        if self.target_loss is None or not math.isfinite(fastest) or not curve:
            return False
        reached = any(look.loss <= self.target_loss for look in curve)
        return not reached and curve[-1].seconds > self.patience * fastest


@dataclass(frozen=True)
class Rules:
    """How long each training goes on, at which share of its rate, and when it is given up."""

    samples: int
    looks: int
    warmup_steps: int
    schedule: Callable[[float], float] | None
    stopping: Stopping

    def rate_share(self, step: int, samples: int) -> float:
        """Share of the rate: a linear warm-up, times the schedule over the progress."""
        ramp = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        return ramp * (self.schedule(samples / self.samples) if self.schedule else 1.0)


@dataclass
class _Progress:
    """A training under way."""

    cell: Cell
    fresh: Fresh
    curve: list[Look] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    seen: deque[Batch] = field(default_factory=lambda: deque(maxlen=_METRIC_BATCHES))

    def end(self, ending: Ending, note: str = "") -> Cell:
        return replace(self.cell, ending=ending, curve=tuple(self.curve), note=note)


def train_cell(
    recipe: Recipe, rules: Rules, asked: Cell, *, fastest: float = math.inf, clock: Clock
) -> Cell:
    """Train what ``asked`` names; ``fastest`` is the least time to the target so far.

    An error that is not about memory is the user's own, and passes with a note.
    """
    fresh = recipe.build(asked.seed)
    step = fresh.step
    progress = _Progress(replace(asked, parameters=fresh.parameters()), fresh)
    try:
        with attempt(step, asked.batch_size, "the training", memory=backend_for(step.device)):
            ending = _train(recipe, rules, progress, fastest, clock)
    except Shortage as shortage:
        return progress.end(Ending.OUT_OF_MEMORY, shortage.message[:200])
    return progress.end(ending)


def _train(
    recipe: Recipe, rules: Rules, progress: _Progress, fastest: float, clock: Clock
) -> Ending:
    cell = progress.cell
    feed = progress.fresh.batches(cell.batch_size // cell.accumulation_steps)
    every = rules.samples / rules.looks
    while progress.samples < rules.samples:
        _one_step(feed, rules, progress, clock)
        if progress.samples < every * (len(progress.curve) + 1) and _is_sane(progress):
            continue
        progress.curve.append(_look(recipe, progress))
        if not _is_sane(progress) or math.isnan(progress.curve[-1].loss):
            return Ending.DIVERGED
        progress.recent.clear()
        if rules.stopping.is_hopeless(progress.curve, fastest):
            return Ending.HOPELESS
        if rules.stopping.no_longer_improves(progress.curve):
            return Ending.EARLY
    return Ending.FINISHED


def _one_step(feed: Iterator[Batch], rules: Rules, progress: _Progress, clock: Clock) -> None:
    """One step and the wait for its batches, timed until its loss is known."""
    step, parts = progress.fresh.step, progress.cell.accumulation_steps
    started = clock()
    step.set_learning_rate(
        progress.cell.learning_rate * rules.rate_share(progress.step + 1, progress.samples)
        or 1e-30  # a group's share of a rate of zero could not be restored
    )
    step.zero_grad()
    loss = 0.0
    for _ in range(parts):
        batch = next(feed)
        loss += float(step.forward_backward(batch, 1 / parts)) / parts
        progress.samples += progress.fresh.count(batch)
        progress.seen.append(batch)
    step.update()
    progress.seconds += clock() - started
    progress.step += 1
    progress.recent.append(loss)
    progress.losses.append(loss)


def _look(recipe: Recipe, progress: _Progress) -> Look:
    validation, metric = recipe.look(progress.fresh)
    train_metric = recipe.metric_on(progress.fresh, progress.seen)
    return Look(
        step=progress.step,
        samples=progress.samples,
        seconds=progress.seconds,
        train_loss=fmean(progress.recent),
        validation_loss=validation,
        metric=metric,
        train_metric=train_metric,
    )


def _is_sane(progress: _Progress) -> bool:
    losses = progress.losses
    if not math.isfinite(losses[-1]):
        return False
    highest = max(losses[:OPENING])
    ceiling = highest + (RAN_AWAY - 1) * abs(highest)
    return len(losses) < 2 * OPENING or min(losses[-OPENING:]) <= ceiling
