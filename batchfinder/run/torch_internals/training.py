"""What schedulers keep of others and of rates, and gradient scalers outside their state."""

from __future__ import annotations

import copy
from typing import Any

__all__ = [
    "LAST_RATES",
    "milestones_of",
    "scaler_attributes",
    "schedulers_inside",
    "switch_off",
]

LAST_RATES = "_last_lr"
"""Where a scheduler keeps the rates that it set last; without it ``get_last_lr`` tells old ones."""
_SCALER = ("_scale", "_growth_tracker", "_per_optimizer_states")


def schedulers_inside(scheduler: Any) -> list[Any]:
    """Those that SequentialLR and ChainedScheduler are made of; none where they cannot be seen."""
    return list(getattr(scheduler, "_schedulers", ()))


def milestones_of(scheduler: Any) -> list[int]:
    """After how many steps SequentialLR goes on to its next scheduler; none where not seen."""
    return list(getattr(scheduler, "_milestones", ()))


def scaler_attributes(thing: Any) -> dict[str, Any]:
    """Copies of what a gradient scaler keeps outside its ``state_dict``; empty for anything else.

    A failed step leaves them half-way. Not restored, the scaler refuses its next step.
    """
    return {name: copy.deepcopy(getattr(thing, name)) for name in _SCALER if hasattr(thing, name)}


def switch_off(scaler: Any) -> None:
    """Let a gradient scaler scale nothing and decide nothing; without its switch it goes on."""
    scaler._enabled = False
