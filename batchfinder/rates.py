"""Learning rates as data: of every parameter group, and what updates at a rate did.

Plain numbers only, as in ``results``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["GroupRate", "OptimizerFamily", "UpdateEffect"]


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
