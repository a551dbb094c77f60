"""A learning rate set in place: in every group of an optimizer, and in what its schedulers keep.

A rate written into ``param_groups`` alone is undone by any scheduler that was made before, since a
scheduler keeps rates of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from batchfinder.errors import InvalidArgument
from batchfinder.rates import GroupRate
from batchfinder.run.torch_internals.objects import LAST_RATES, schedulers_inside

__all__ = ["apply_once", "multiply_rates", "set_rates"]

_MARK = "_batchfinder_rates"
"""On an optimizer: what was applied to it. It is no part of its ``state_dict``."""

_GROUP_RATES = ("lr", "initial_lr", "max_lr", "min_lr", "swa_lr")
"""In ``param_groups``; ``max_lr`` and ``min_lr`` are OneCycleLR's, ``swa_lr`` is SWALR's."""

_PEAKS = ("lr", "initial_lr", "max_lr")
"""The largest of these is the rate that a group comes to."""

_SCHEDULER_RATES = ("base_lrs", "max_lrs", "min_lrs", "eta_min", LAST_RATES)
"""On schedulers: CyclicLR's bounds, ReduceLROnPlateau's floors, the cosine schedules' floor."""

_WRAPPED = ("scheduler", "after_scheduler")
"""Where wrappers of other packages keep a scheduler."""


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


def apply_once(
    optimizer: Any, factor: float, scheduler: Any = None, *, rates: Sequence[GroupRate] = ()
) -> None:
    """:func:`multiply_rates`, refused where these rates were applied before.

    Args:
        optimizer: as there.
        factor: as there.
        scheduler: as there.
        rates: every group's rate before and after.

    Raises:
        InvalidArgument: where the optimizer was given them already, in this process or, as far as
            its rates tell, before it was saved and loaded again.
    """
    optimizers = [each for each in _listed(optimizer) if each is not None]
    if factor == 1:
        return
    mark = (factor, tuple((rate.base, rate.recommended) for rate in rates))
    before = any(getattr(each, _MARK, None) == mark for each in optimizers)
    if before or _are_recommended(optimizers, rates):
        raise InvalidArgument(
            "expected an optimizer with the rates of the search; found the recommended ones: "
            "apply_rate was already called, and a second call would multiply them again. Call "
            "apply_rate once, with the schedulers, on a newly built optimizer"
        )
    multiply_rates(optimizer, factor, scheduler)
    for each in optimizers:
        with suppress(AttributeError):  # one with slots keeps no mark
            setattr(each, _MARK, mark)


def _are_recommended(optimizers: Sequence[Any], rates: Sequence[GroupRate]) -> bool:
    """Whether every group that a search would move has the rate that it recommended."""
    groups = [g for each in optimizers for g in getattr(each, "param_groups", ()) if "lr" in g]
    moved = [
        (max(float(group[name]) for name in _PEAKS if group.get(name) is not None), rate)
        for group, rate in zip(groups, rates, strict=False)
        if rate.recommended and not math.isclose(rate.base, rate.recommended, rel_tol=1e-3)
    ]
    same_groups = len(groups) == len(rates)
    return bool(moved and same_groups) and all(
        math.isclose(peak, rate.recommended or 0.0, rel_tol=1e-6) for peak, rate in moved
    )


def set_rates(optimizer: Any, rate: float, scheduler: Any = None) -> None:
    """Multiply every learning rate, in place, so that the first group's peak becomes ``rate``.

    Where every group's rate is 0, each is set to ``rate``.

    Args:
        optimizer: one, or several in a list or dict.
        rate: above 0.
        scheduler: as for ``multiply_rates``.
    """
    groups = [group for each in _listed(optimizer) for group in each.param_groups]
    peaks = (max(float(group.get(name) or 0.0) for name in _PEAKS) for group in groups)
    peak = next((each for each in peaks if each), None)
    if peak is not None:
        multiply_rates(optimizer, rate / peak, scheduler)
        return
    for group in groups:
        if isinstance(group.get("lr"), int | float):
            group["lr"] = rate
        elif group.get("lr") is not None:
            group["lr"].fill_(rate)


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
        waiting += schedulers_inside(scheduler)
        for name in _WRAPPED:
            waiting += _listed(getattr(scheduler, name, None))
    return iter(seen.values())
