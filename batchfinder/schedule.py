"""What schedulers tell without being stepped: whether the rate decays, and what they count."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from torch.optim import lr_scheduler, swa_utils

from batchfinder.results import Counted, Schedule
from batchfinder.run.torch_internals.objects import milestones_of, schedulers_inside

__all__ = ["decays", "schedule_of"]

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
_COUNTS: tuple[tuple[type, tuple[str, ...]], ...] = (
    (lr_scheduler.StepLR, ("step_size",)),
    (lr_scheduler.ConstantLR, ("total_iters",)),
    (lr_scheduler.LinearLR, ("total_iters",)),
    (lr_scheduler.PolynomialLR, ("total_iters",)),
    (lr_scheduler.CosineAnnealingLR, ("T_max",)),
    (lr_scheduler.CosineAnnealingWarmRestarts, ("T_0",)),
    (lr_scheduler.OneCycleLR, ("total_steps",)),
    (swa_utils.SWALR, ("anneal_epochs",)),
)
"""What each of torch's schedulers counts in its own steps."""
_ENDS: tuple[tuple[type, str], ...] = (
    (lr_scheduler.OneCycleLR, "total_steps"),
    (lr_scheduler.CosineAnnealingLR, "T_max"),
    (lr_scheduler.PolynomialLR, "total_iters"),
    (lr_scheduler.LinearLR, "total_iters"),
)
"""After how many of its own steps each has come down to its end."""
_MOST_EPOCHS = 500
"""A count above it, or above the steps of an epoch, is one of steps."""
_NAMES = ("cosine", "poly", "exponential", "decay", "onecycle", "plateau", "anneal", "step")


def decays(schedulers: Iterable[Any], steps: int | None = None) -> bool:
    """Whether any of the schedules ends well below its peak within ``steps``.

    A warm-up that ends in a constant rate does not. Torch's own schedules are told by their
    class, those given by a function by its values, and those of others by their name.
    """
    return any(_decays(each, steps or _STEPS) for each in schedulers)


def schedule_of(
    schedulers: Iterable[Any], dataset_length: int | None, batch: int
) -> Schedule | None:
    """What the schedulers of a training tell; ``None`` where there is none.

    OneCycleLR and the schedules of transformers count optimizer steps. The others count however
    they are stepped: epochs where all their counts are below both the steps of an epoch and 500,
    else steps, which is the shorter reading.

    Args:
        schedulers: one or several, which may be nested.
        dataset_length: samples of an epoch, ``None`` for a stream.
        batch: samples per optimizer step that the schedulers were made for.
    """
    given = list(schedulers)
    if not given:
        return None
    counted = tuple(each for scheduler in given for each in _counted(scheduler))
    told = [length for each in given if (length := _length(each)) is not None]
    length = max(told, default=None)
    known = any(map(_counts_steps, given))
    most = max((each.value for each in counted if not each.is_factor), default=0.0)
    epoch = 0 if dataset_length is None else math.ceil(dataset_length / batch)
    in_epochs = not known and 0 < most < min(_MOST_EPOCHS, epoch)
    if length is not None and in_epochs:
        length *= epoch
    return Schedule(
        decays=decays(given, length),
        steps=length,
        counted=counted,
        counts_epochs=in_epochs,
        is_certain=known,
    )


def _parts(scheduler: Any) -> list[Any]:
    """The schedulers that one is made of."""
    nested = lr_scheduler.SequentialLR | lr_scheduler.ChainedScheduler
    return schedulers_inside(scheduler) if isinstance(scheduler, nested) else []


def _counted(scheduler: Any) -> Iterator[Counted]:
    name = type(scheduler).__name__
    for part in _parts(scheduler):
        yield from _counted(part)
    if isinstance(scheduler, lr_scheduler.SequentialLR):
        yield from (Counted(f"{name} milestone", float(each)) for each in milestones_of(scheduler))
    if isinstance(scheduler, lr_scheduler.MultiStepLR):
        places = sorted(scheduler.milestones)
        yield from (Counted(f"{name} milestone", float(each)) for each in places)
    if isinstance(scheduler, lr_scheduler.CyclicLR):
        up = scheduler.total_size * scheduler.step_ratio
        yield Counted(f"{name} step_size_up", up)
        yield Counted(f"{name} step_size_down", scheduler.total_size - up)
    if isinstance(scheduler, lr_scheduler.ExponentialLR):
        yield Counted(f"{name} gamma", float(scheduler.gamma), is_factor=True)
    for kind, members in _COUNTS:
        if isinstance(scheduler, kind):
            held = vars(scheduler)
            yield from (Counted(f"{name} {each}", float(held[each])) for each in members)
    for keyword, value in _keywords(scheduler).items():
        yield Counted(keyword, float(value))


def _keywords(scheduler: Any) -> Mapping[str, Any]:
    """What the functions of transformers' schedules count: ``num_training_steps`` and so on."""
    if not isinstance(scheduler, lr_scheduler.LambdaLR):
        return {}
    given = (each.keywords for each in scheduler.lr_lambdas if isinstance(each, partial))
    return {
        name: value
        for keywords in given
        for name, value in keywords.items()
        if name.startswith("num_") and name.endswith("_steps") and isinstance(value, int)
    }


def _counts_steps(scheduler: Any) -> bool:
    """Whether its counts are of optimizer steps by what it is."""
    parts = _parts(scheduler)
    if parts:
        return any(map(_counts_steps, parts))
    return isinstance(scheduler, lr_scheduler.OneCycleLR) or bool(_keywords(scheduler))


def _length(scheduler: Any) -> int | None:
    """After how many of its own steps it ends, where it comes down to an end."""
    if isinstance(scheduler, lr_scheduler.SequentialLR):
        parts, milestones = _parts(scheduler), milestones_of(scheduler)
        last = _length(parts[-1]) if parts and milestones else None
        return None if last is None else int(milestones[-1]) + last
    if isinstance(scheduler, lr_scheduler.ChainedScheduler):
        return max((n for each in _parts(scheduler) if (n := _length(each))), default=None)
    falls = not isinstance(scheduler, lr_scheduler.LinearLR) or _decays(scheduler, 1)
    held = [vars(scheduler)[member] for kind, member in _ENDS if isinstance(scheduler, kind)]
    if held:
        return int(held[0]) if falls else None
    counts = _keywords(scheduler)
    whole = counts.get("num_training_steps")
    if whole is None and "num_decay_steps" in counts:
        whole = sum(map(int, counts.values()))
    return whole


def _decays(scheduler: Any, steps: int) -> bool:
    if parts := _parts(scheduler):
        return any(_decays(each, steps) for each in parts)
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
