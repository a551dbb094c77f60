"""The learning rates of all parameter groups, moved together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from batchfinder.rates import GroupRate
from batchfinder.run.step.optimizers import group_rates, inner_optimizer, set_rate
from batchfinder.run.torch_internals.training import schedulers_inside

__all__ = ["Rates"]

_DRIFT = 0.05
"""A rate within this share of the one set has stayed: a cosine inside the step, over thousands of
steps, changes it by less over those that are looked at."""


class Rates:
    """Every group's rate; the rate of all is that of the first one whose base is not zero.

    A group's base is its peak where a scheduler made the rate smaller: the largest of ``lr``,
    ``initial_lr`` (which every scheduler of torch leaves in the group), ``max_lr`` (one-cycle) and
    the maxima that ``schedulers`` keep to themselves (cyclic).
    """

    def __init__(self, optimizers: Sequence[Any], schedulers: Sequence[Any] = ()) -> None:
        self._optimizers = list(optimizers)
        kept = dict(_maxima(schedulers))
        self._bases = [
            max(_peak(group), kept.get(id(group), 0.0)) for group in group_rates(self._optimizers)
        ]
        self._written = self.now()
        self.overwritten = False

    def now(self) -> list[float]:
        return [float(group["lr"]) for group in group_rates(self._optimizers)]

    def base(self) -> float | None:
        """The peak of the group that stands for all."""
        return next((base for base in self._bases if base), None)

    def first(self) -> float | None:
        """The rate now of the group that stands for all."""
        if not self._bases:
            return None
        rates = self.now()
        return next(
            (rate for rate, base in zip(rates, self._bases, strict=False) if base), rates[0]
        )

    def scale(self, factor: float) -> None:
        """Multiply every rate."""
        expected = [rate * factor for rate in self._written]
        self._write([rate * factor for rate in self.now()], expected)

    def set(self, rate: float) -> None:
        """Give every group its base's share of ``rate``; all of it where every base is zero."""
        base = self.base()
        rates = [rate * each / base if base else rate for each in self._bases]
        self._write(rates, rates)

    def _write(self, rates: list[float], expected: list[float]) -> None:
        self.look()
        for group, rate in zip(group_rates(self._optimizers), rates, strict=False):
            set_rate(group, rate)
        self._written = expected

    def forget(self) -> None:
        """From here on, rates count as written by us as they are now."""
        self._written, self.overwritten = self.now(), False

    def look(self) -> None:
        """Note whether somebody else has written a rate since we did."""
        now = self.now()
        same = len(now) == len(self._written) and all(
            math.isclose(a, b, rel_tol=_DRIFT) for a, b in zip(now, self._written, strict=True)
        )
        self.overwritten |= not same

    def by_group(self, recommended: float | None) -> Iterator[GroupRate]:
        """Every group's base and what becomes of it where the first one's is ``recommended``."""
        base = self.base()
        bases = iter(self._bases)
        for place, optimizer in enumerate(self._optimizers):
            name = type(inner_optimizer(optimizer)).__name__
            for number, group in enumerate(optimizer.param_groups):
                if group.get("lr") is None:
                    continue
                own = next(bases)
                factor = recommended / base if recommended is not None and base else None
                recommend = None if factor is None else own * factor
                yield GroupRate(place, number, name, own, factor, recommend)


def _maxima(schedulers: Iterable[Any]) -> Iterator[tuple[int, float]]:
    """The maxima of each group's rate that schedulers, those inside others too, hold themselves."""
    for scheduler in schedulers:
        yield from _maxima(schedulers_inside(scheduler))
        groups = getattr(getattr(scheduler, "optimizer", None), "param_groups", ())
        for group, rate in zip(groups, getattr(scheduler, "max_lrs", ()), strict=False):
            yield id(group), float(rate)


def _peak(group: dict[str, Any]) -> float:
    rates = (group.get(name) for name in ("lr", "initial_lr", "max_lr"))
    return max(float(rate) for rate in rates if rate is not None)
