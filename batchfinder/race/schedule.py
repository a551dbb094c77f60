"""Does a schedule bring the learning rate down? Read off the scheduler, which is never stepped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch.optim import lr_scheduler

__all__ = ["decays"]

_LOW = 0.5
"""A rate that ends below this share of its peak has decayed."""
_STEPS = 10_000
_ALWAYS = (
    lr_scheduler.StepLR,
    lr_scheduler.MultiStepLR,
    lr_scheduler.ExponentialLR,
    lr_scheduler.PolynomialLR,
    lr_scheduler.CosineAnnealingLR,
    lr_scheduler.CosineAnnealingWarmRestarts,
    lr_scheduler.OneCycleLR,
    lr_scheduler.ReduceLROnPlateau,
)
_NAMES = ("cosine", "poly", "exponential", "decay", "onecycle", "plateau", "anneal", "step")


def decays(schedulers: Iterable[Any], steps: int | None = None) -> bool:
    """Whether any of the schedules ends well below its peak within ``steps``.

    A warm-up that ends in a constant rate does not. Torch's own schedules are told by their
    class, those given by a function by its values, and those of others by their name.
    """
    return any(_decays(each, steps or _STEPS) for each in schedulers)


def _decays(scheduler: Any, steps: int) -> bool:
    if isinstance(scheduler, lr_scheduler.SequentialLR | lr_scheduler.ChainedScheduler):
        return any(_decays(each, steps) for each in scheduler._schedulers)
    if isinstance(scheduler, lr_scheduler.LambdaLR):
        return any(_falls(each, steps) for each in scheduler.lr_lambdas)
    if isinstance(scheduler, lr_scheduler.MultiplicativeLR):
        return any(_falls(_product_of(each), min(steps, 1000)) for each in scheduler.lr_lambdas)
    if isinstance(scheduler, lr_scheduler.LinearLR):
        return bool(scheduler.end_factor < _LOW * scheduler.start_factor)
    name = type(scheduler).__name__.lower()
    return isinstance(scheduler, _ALWAYS) or any(part in name for part in _NAMES)


def _falls(factor_at: Callable[[int], float], steps: int) -> bool:
    """Whether a function of the step ends below half its highest value."""
    places = sorted({round(steps * share / 200) for share in range(201)} | set(range(20)))
    seen: list[float] = []
    for place in places:
        try:
            seen.append(float(factor_at(place)))
        except Exception:  # noqa: BLE001  # a function for fewer steps may fail beyond them
            break
    return bool(seen) and seen[-1] < _LOW * max(seen)


def _product_of(factor: Callable[[int], float]) -> Callable[[int], float]:
    """MultiplicativeLR multiplies the rate by what its function returns at every step."""

    def product(step: int) -> float:
        so_far = 1.0
        for each in range(1, step + 1):
            so_far *= factor(each)
        return so_far

    return product
