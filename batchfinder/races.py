"""What a race of learning rates found, as frozen data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from batchfinder.html import Shown
from batchfinder.wording import Caveat, summary

__all__ = ["RaceArm", "RaceResult"]


@dataclass(frozen=True)
class RaceArm:
    """One short training at one rate, from the start.

    ``loss`` is that of batches which were not trained on, ``inf`` where the training ran away;
    ``order`` is 2 where it was a repeat on another order of the data. ``steps`` were taken.
    ``loss_error`` is the standard error of the loss, for the samples that it was judged on.
    """

    learning_rate: float
    loss: float
    steps: int
    order: int = 1
    loss_error: float = 0.0

    @property
    def ran_away(self) -> bool:
        return not math.isfinite(self.loss)


@dataclass(frozen=True)
class RaceResult(Shown):
    """Learning rates of one batch, tried side by side.

    Where no rate was found ``refusal`` says why, ``best_rate`` is ``None`` and ``learning_rate``
    that of the rule. ``rule_rate`` is where the rule would put the rate, and ``best_rate`` what
    trained fastest over ``steps`` steps. For a run of ``run_steps`` at this batch ``learning_rate``
    is the rule's where that is among ``open_rates``, and else a rate within; where ``run_steps`` is
    ``None``, the rule's moved into [``best_rate`` / 4, ``best_rate``]. ``averaged``: the arms were
    judged by a running average of the weights, as suits a decaying rate.
    """

    batch: int
    """Samples per optimizer step."""
    arms: tuple[RaceArm, ...]
    steps: int
    rule_rate: float
    best_rate: float | None
    learning_rate: float
    run_steps: float | None = None
    averaged: bool = False
    open_rates: tuple[float, float] | None = None
    """Lowest and highest rate that may be the best of the whole run, for all that the race says."""
    exponent: float = 1 / 3
    """By which power of the length of a run to lower its rate; 1/3 at most."""
    start_loss: float = math.nan
    held_out_samples: int = 0
    refusal: Caveat | None = None
    caveats: tuple[Caveat, ...] = ()

    def __str__(self) -> str:
        refusal = () if self.refusal is None else (self.refusal,)
        return summary.raced(
            [(arm.learning_rate, arm.loss, arm.steps, arm.order) for arm in self.arms],
            rate=self.learning_rate,
            batch=self.batch,
            rule_rate=self.rule_rate,
            caveats=(*refusal, *self.caveats),
        )

    @property
    def factor(self) -> float:
        """The rate found over the rule's: how far the rate that the rule started from is off."""
        return self.learning_rate / self.rule_rate

    @property
    def steps_taken(self) -> int:
        """Optimizer steps of all arms together: what the race cost."""
        return sum(arm.steps for arm in self.arms)
