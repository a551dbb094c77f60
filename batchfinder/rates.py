"""Learning rates: of every parameter group, and those that were raced."""

from __future__ import annotations

import math
from dataclasses import dataclass

from batchfinder.wording import Caveat

__all__ = ["GroupRate", "RaceArm", "RaceResult", "UpdateEffect"]


@dataclass(frozen=True)
class GroupRate:
    """The learning rate of one parameter group; all groups are moved by the same ``factor``.

    ``optimizer`` and ``group`` count from 0, ``name`` is the optimizer's class. ``base`` is the
    rate that the user's training has at its peak. ``factor`` and ``recommended`` are ``None``
    where no rate is recommended.
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
    """

    learning_rate: float
    loss: float
    steps: int
    order: int = 1

    @property
    def ran_away(self) -> bool:
        return not math.isfinite(self.loss)


@dataclass(frozen=True)
class RaceResult:
    """Learning rates of one batch, tried side by side.

    Where no rate was found ``refusal`` says why, ``best_rate`` is ``None`` and ``learning_rate``
    that of the rule. ``rule_rate`` is where the rule would have put the rate, ``best_rate`` what
    trained fastest over ``steps`` steps, and ``learning_rate`` the rule's, moved as far as the race
    gives reason to for a run of ``run_steps`` at this batch; where ``run_steps`` is ``None``, no
    further than into [``best_rate`` / 4, ``best_rate``]. ``averaged``: the arms were judged by a
    running average of the weights, as suits a decaying rate.
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
    exponent: float = 1 / 3
    """By which power of the length of a run its best rate falls."""
    start_loss: float = math.nan
    held_out_samples: int = 0
    refusal: Caveat | None = None
    caveats: tuple[Caveat, ...] = ()

    @property
    def factor(self) -> float:
        """The rate found over the rule's: how far the rate that the rule started from is off."""
        return self.learning_rate / self.rule_rate

    @property
    def steps_taken(self) -> int:
        """Optimizer steps of all arms together: what the race cost."""
        return sum(arm.steps for arm in self.arms)
