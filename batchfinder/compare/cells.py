"""One training of the study as frozen data: its curve and how it ended."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise

__all__ = ["Cell", "Ending", "Look"]


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
