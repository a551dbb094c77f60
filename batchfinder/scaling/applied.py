"""A learning rate set in place: in every group of an optimizer, and in what its schedulers keep.

A rate written into ``param_groups`` alone is undone by any scheduler that was made before, since a
scheduler keeps rates of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["multiply_rates"]

_GROUP_RATES = ("lr", "initial_lr", "max_lr", "min_lr", "swa_lr")
"""In ``param_groups``; ``max_lr`` and ``min_lr`` are OneCycleLR's, ``swa_lr`` is SWALR's."""

_SCHEDULER_RATES = ("base_lrs", "max_lrs", "min_lrs", "eta_min", "_last_lr")
"""On schedulers: CyclicLR's bounds, ReduceLROnPlateau's floors, the cosine schedules' floor."""

_NESTED = ("_schedulers", "scheduler", "after_scheduler")
"""Where schedulers keep others: SequentialLR and ChainedScheduler; wrappers of other packages."""


def multiply_rates(optimizer: Any, factor: float, scheduler: Any = None) -> None:
    """Multiply every learning rate by ``factor``, in place, once.

    Args:
        optimizer: one, or several in a list or dict.
        factor: above 0.
        scheduler: one, or several, which may be nested. Whatever rates it keeps are multiplied too,
            so that it goes on as if it had been made with them.
    """
    schedulers = list(_nested(_listed(scheduler)))
    optimizers = [*_listed(optimizer), *(getattr(each, "optimizer", None) for each in schedulers)]
    groups = {
        id(group): group
        for each in optimizers
        if each is not None
        for group in getattr(each, "param_groups", ())
    }
    for group in groups.values():
        for name in _GROUP_RATES:
            if isinstance(group.get(name), int | float):
                group[name] = group[name] * factor
            elif group.get(name) is not None:
                group[name].mul_(factor)  # a tensor, which a captured step may hold
    for each in schedulers:
        for name in _SCHEDULER_RATES:
            kept = vars(each).get(name)
            if isinstance(kept, list):
                kept[:] = [rate * factor for rate in kept]
            elif isinstance(kept, int | float):
                setattr(each, name, kept * factor)


def _listed(things: Any) -> list[Any]:
    if things is None:
        return []
    if isinstance(things, Mapping):
        return list(things.values())
    return list(things) if isinstance(things, list | tuple) else [things]


def _nested(schedulers: Iterable[Any]) -> Iterator[Any]:
    """Every scheduler once, with those that it keeps."""
    seen: dict[int, Any] = {}
    waiting = list(schedulers)
    while waiting:
        scheduler = waiting.pop()
        if id(scheduler) in seen:
            continue
        seen[id(scheduler)] = scheduler
        for name in _NESTED:
            waiting += _listed(getattr(scheduler, name, None))
    return iter(seen.values())
