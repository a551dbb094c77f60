"""A study as frozen data: every training, per size and rate, over seeds; times to a target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from statistics import fmean, stdev

from batchfinder.errors import InvalidArgument
from batchfinder.wording import Caveat

__all__ = ["Arm", "Cell", "Ending", "Look", "StudyData"]


class Ending(Enum):
    """How one training ended."""

    FINISHED = "finished"
    DIVERGED = "diverged"
    HOPELESS = "hopeless"
    OUT_OF_MEMORY = "out of memory"
    EARLY = "early"
    LOST = "lost"


@dataclass(frozen=True)
class Look:
    """Where a training stands. ``seconds`` are of training alone, validation not counted.

    ``train_loss`` is the mean since the look before; ``validation_loss`` and ``metric`` are absent
    where there is no validation loader or no metric. ``train_metric`` is that of the last batches
    trained on, in evaluation mode.
    """

    step: int
    samples: int
    seconds: float
    train_loss: float
    validation_loss: float | None = None
    metric: float | None = None
    train_metric: float | None = None

    @property
    def loss(self) -> float:
        """The validation loss, else the training loss."""
        return self.train_loss if self.validation_loss is None else self.validation_loss


@dataclass(frozen=True)
class Cell:
    """One training: a batch size, a rate, a seed.

    ``batch_size`` counts the samples of one optimizer step; with ``accumulation_steps`` above 1 it
    is cut into so many micro-batches. ``host`` is where it ran, where an executor took it.
    """

    batch_size: int
    learning_rate: float
    seed: int
    ending: Ending
    curve: tuple[Look, ...] = ()
    peak_bytes: int | None = None
    epoch_samples: int | None = None
    note: str = ""
    accumulation_steps: int = 1
    parameters: int = 0
    host: str = field(default="", compare=False)

    @property
    def finished(self) -> bool:
        return self.ending in (Ending.FINISHED, Ending.EARLY)

    @property
    def seconds(self) -> float:
        return self.curve[-1].seconds if self.curve else math.nan

    @property
    def steps(self) -> int:
        return self.curve[-1].step if self.curve else 0

    @property
    def samples(self) -> int:
        return self.curve[-1].samples if self.curve else 0

    def final(self, of: Callable[[Look], float | None]) -> float:
        """``of`` at the last look; NaN where there is none."""
        value = of(self.curve[-1]) if self.curve else None
        return math.nan if value is None else value

    def lowest(self, of: Callable[[Look], float | None]) -> float:
        """The lowest ``of`` of all looks; NaN where it was never a number."""
        values = [value for look in self.curve if (value := of(look)) is not None]
        return min((value for value in values if not math.isnan(value)), default=math.nan)

    @property
    def gap(self) -> float:
        """Validation loss less training loss, at the last look."""
        validation = self.final(lambda look: look.validation_loss)
        return validation - self.final(lambda look: look.train_loss)

    def reach(self, target: float, of: Callable[[Look], float]) -> float:
        """``of`` (seconds, steps, samples) when the loss first meets ``target``; ``inf`` if never.

        Between two looks the loss is taken for a straight line.
        """
        if self.curve and self.curve[0].loss <= target:
            return of(self.curve[0])
        for before, after in pairwise(self.curve):
            if after.loss <= target:
                share = (before.loss - target) / (before.loss - after.loss)
                return of(before) + share * (of(after) - of(before))
        return math.inf


@dataclass(frozen=True)
class Arm:
    """One size at one rate, over its seeds. Means; ``inf`` where a seed never met the target."""

    batch_size: int
    learning_rate: float
    cells: tuple[Cell, ...]

    def mean(self, of: Callable[[Cell], float]) -> float:
        return fmean(map(of, self.cells))

    def scatter(self, of: Callable[[Cell], float]) -> float:
        """The standard deviation over seeds; NaN for one seed."""
        values = [of(cell) for cell in self.cells]
        finite = len(values) > 1 and all(map(math.isfinite, values))
        return stdev(values) if finite else math.nan

    def reach(self, target: float, of: Callable[[Look], float]) -> float:
        """Mean seconds, steps or samples to the target."""
        return self.mean(lambda cell: cell.reach(target, of))

    @property
    def ending(self) -> Ending:
        """How its seeds ended; the first that is not "finished", if any."""
        return next((cell.ending for cell in self.cells if not cell.finished), Ending.FINISHED)

    @property
    def lowest_loss(self) -> float:
        """The mean over seeds; ``inf`` without one."""
        lowest = self.mean(lambda cell: cell.lowest(lambda look: look.loss))
        return math.inf if math.isnan(lowest) else lowest

    def epochs_to(self, target: float) -> float:
        """Passes over the data set until ``target`` is met; NaN where its length is not known."""
        length = next((cell.epoch_samples for cell in self.cells if cell.epoch_samples), None)
        return self.reach(target, lambda look: look.samples) / length if length else math.nan

    @property
    def peak_bytes(self) -> int | None:
        return max((c.peak_bytes for c in self.cells if c.peak_bytes is not None), default=None)


@dataclass(frozen=True)
class StudyData:
    """The study: every training, and what follows from them.

    ``target`` is the loss that times are measured to; ``recommended`` is the size whose regret is
    asked for first.
    """

    cells: tuple[Cell, ...]
    target: float
    base_batch_size: int
    recommended: int | None = None
    metric_name: str = ""
    caveats: tuple[Caveat, ...] = ()

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Sizes × rates, in order of size, then rate."""
        keys = sorted({(cell.batch_size, cell.learning_rate) for cell in self.cells})
        return tuple(
            Arm(size, rate, tuple(c for c in self.cells if (c.batch_size, c.learning_rate) == key))
            for key in keys
            for size, rate in (key,)
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(sorted({cell.batch_size for cell in self.cells}))

    @property
    def largest(self) -> int | None:
        """The largest size of which no training ran out of memory."""
        failed = {c.batch_size for c in self.cells if c.ending is Ending.OUT_OF_MEMORY}
        return max((size for size in self.sizes if size not in failed), default=None)

    def best_arm(self, size: int) -> Arm:
        """The rate of ``size`` that meets the target first; if none does, that of the lowest loss.

        Raises:
            InvalidArgument: for a size that was not trained.
        """
        arms = [arm for arm in self.arms if arm.batch_size == size]
        if not arms:
            raise InvalidArgument(f"expected one of the sizes {self.sizes}; found {size}")
        return min(arms, key=lambda arm: (self.seconds_to_target(arm), arm.lowest_loss))

    def seconds_to_target(self, arm: Arm) -> float:
        return arm.reach(self.target, lambda look: look.seconds)

    def regret(self, size: int) -> float:
        """How much longer ``size``, at its best rate here, takes to the target than the best.

        0 is the best; ``inf`` for a size that never meets it; NaN where none does.
        """
        best = min(self.seconds_to_target(arm) for arm in self.arms)
        own = self.seconds_to_target(self.best_arm(size))
        if math.isinf(best):
            return math.nan
        return own / best - 1 if best else 0.0

    def regrets(self) -> Iterator[tuple[str, int, float]]:
        """Role, size and regret of the recommended, of 32, and of the largest that fits."""
        roles = (("recommended", self.recommended), ("32", 32), ("largest that fits", self.largest))
        for role, size in roles:
            if size in self.sizes and size is not None:
                yield role, size, self.regret(size)

    @property
    def has_validation(self) -> bool:
        """Whether the trainings were judged on a validation loader."""
        return any(look.validation_loss is not None for c in self.cells for look in c.curve)
