"""Learning rates as data: of every parameter group, what updates at a rate did, what a race found.

Plain numbers only, as in ``results``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from batchfinder.html import Shown
from batchfinder.wording import Caveat, summary

__all__ = ["GroupRate", "OptimizerFamily", "RaceArm", "RaceResult", "UpdateEffect"]


class OptimizerFamily(StrEnum):
    """Optimizers whose best rate follows the batch size by one rule (``scaling.rule_for``)."""

    SGD = "sgd"
    SGD_MOMENTUM = "sgd-momentum"
    ADAM = "adam"
    LION = "lion"
    MUON = "muon"
    ADAFACTOR = "adafactor"
    SHAMPOO = "shampoo"
    PARAMETER_FREE = "parameter-free"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class GroupRate:
    """The learning rate of one parameter group; all groups are scaled by the same ``factor``.

    ``optimizer`` and ``group`` are indices from 0, ``name`` is the class of the optimizer. ``base``
    is the peak rate of the user's training. ``factor`` and ``recommended`` are ``None`` if no rate
    is recommended.
    """

    optimizer: int
    group: int
    name: str
    base: float
    factor: float | None = None
    recommended: float | None = None


@dataclass(frozen=True)
class UpdateEffect:
    """What some updates of a training step did: whether they are the ones that were asked for.

    ``steps_taken`` is how often the optimizer's own step ran, ``None`` where that cannot be seen;
    ``wrapper`` is the class whose step was called. ``made`` counts the updates that wrote to a
    parameter, if only a zero; ``None`` where they were written past its version. ``rate_kept`` is
    false where a rate was written by somebody else after it was set. ``state_moved`` is ``None``
    where the optimizer keeps no state.
    """

    updates: int
    clipped: int
    parameters_moved: bool
    state_moved: bool | None
    rate_kept: bool
    steps_taken: int | None = None
    wrapper: str = ""
    made: int | None = None

    @property
    def rate_was_used(self) -> bool:
        """Whether the rate that was set is the one with which parameters moved."""
        return self.parameters_moved and self.rate_kept and self.steps_taken != 0

    @property
    def left_out(self) -> int:
        """Of the updates that were asked for, those that the optimizer did not make."""
        return 0 if self.made is None else max(0, self.updates - self.made)

    @property
    def did_nothing(self) -> bool:
        """Whether updates were asked for and neither parameters nor state moved."""
        moved = self.parameters_moved or bool(self.state_moved) or bool(self.made)
        return self.updates > 0 and not moved


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
