"""What a rehearsal of a step must swap, rest or put back: whatever the step can touch.

A ``train_step`` often closes over a gradient scaler or an optimizer. Left real, they would be
given fake state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from batchfinder.run.reachable import reached_from


@dataclass(frozen=True)
class Reachable:
    """Modules and optimizers to swap for fakes, scalers to rest, other objects to put back."""

    modules: list[torch.nn.Module]
    optimizers: list[Any]
    scalers: list[Any]
    others: list[Any]


def reachable_from(step: Any) -> Reachable:
    """What ``step`` holds: handed over, or held by the functions that it calls.

    ``others`` are objects of this library: the step, and those that it is made of.
    """
    others: dict[int, Any] = {}
    held: list[Any] = [*step.modules(), *step.optimizers()]
    queue = [step]
    while queue:
        thing = queue.pop()
        if id(thing) in others:
            continue
        if type(thing).__module__.startswith("batchfinder.") and hasattr(thing, "__dict__"):
            others[id(thing)] = thing
            queue.extend(vars(thing).values())
        else:
            held.append(thing)
    reached = reached_from(held)
    optimizers = {id(each): each for each in [*step.optimizers(), *reached.optimizers]}
    return Reachable(
        reached.modules, list(optimizers.values()), reached.scalers, list(others.values())
    )
