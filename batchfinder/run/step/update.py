"""An update: rates moved together, gradients weighted, unscaled, clipped, then the optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import torch

from batchfinder.errors import UnknownLoss
from batchfinder.rates import GroupRate
from batchfinder.run.step.optimizers import group_rates, inner_optimizer, set_rate
from batchfinder.run.torch_internals.objects import schedulers_inside

__all__ = ["Clip", "Rates", "Updates", "Weights", "split_weight"]


Clip: TypeAlias = float | Callable[[list[torch.nn.Parameter]], Any] | None
"""The largest norm that gradients may have together, or what changes them in place."""

_CLOSURE = (
    "batchfinder: the step of {name} was called without a closure; if it needs one, pass "
    "train_step= that calls optimizer.step(closure) itself and returns None"
)


class Updates:
    """One optimizer update after another, and how many of them were clipped.

    Args:
        parameters: what is clipped, where it has a gradient.
        optimizers: stepped in this order.
        scaler: the gradient scaler, if any.
        clip: see ``Clip``.
    """

    def __init__(
        self,
        parameters: Sequence[torch.nn.Parameter],
        optimizers: Sequence[Any],
        scaler: Any,
        clip: Clip,
    ) -> None:
        self._parameters = list(parameters)
        self._optimizers = list(optimizers)
        self._scaler = scaler
        self._clip = clip
        self.counting = False
        self.taken = 0
        self.clipped = 0

    def run(self) -> None:
        """Unscale, clip, step."""
        active = [each for each in self._optimizers if self._scaler is None or has_gradient(each)]
        if self._clip is not None:
            if self._scaler is not None:
                for optimizer in active:
                    self._scaler.unscale_(optimizer)
            self._clip_gradients()
        for optimizer in active:
            try:
                if self._scaler is None:
                    optimizer.step()
                else:
                    self._scaler.step(optimizer)
            except (AssertionError, RuntimeError, TypeError, ValueError) as error:
                if "closure" in str(error) or "'NoneType' object is not callable" in str(error):
                    error.add_note(_CLOSURE.format(name=type(optimizer).__name__))
                raise
        if self._scaler is not None:
            self._scaler.update()
        self.taken += self.counting

    def _clip_gradients(self) -> None:
        reached = [p for p in self._parameters if p.grad is not None]
        if callable(self._clip):
            # norms cost a pass over the gradients each: only where somebody counts
            before = _norm(reached) if self.counting else 0.0
            self._clip(reached)
            if self.counting:
                self.clipped += _norm(reached) < before * (1 - 1e-6)
            return
        assert self._clip is not None
        norm = torch.nn.utils.clip_grad_norm_(reached, self._clip)
        if self.counting:
            self.clipped += float(norm) > self._clip


def has_gradient(optimizer: Any) -> bool:
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])


def _norm(parameters: Sequence[torch.nn.Parameter]) -> float:
    gradients = [p.grad for p in parameters if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def split_weight(returned: Any) -> tuple[Any, float | None]:
    """What a train_step returned as loss and weight; ``None`` where it gave no weight.

    A pair of a loss and a number, or a tensor of one element without a graph, has a weight.

    Raises:
        UnknownLoss: where the weight is negative or not finite.
    """
    if type(returned) is not tuple or len(returned) != 2 or not _is_weight(returned[1]):
        return returned, None
    loss, weight = returned[0], float(returned[1])
    if not (math.isfinite(weight) and weight >= 0):
        raise UnknownLoss(
            "expected train_step to return (loss, weight) with a weight of at least 0; found "
            f"{weight}: the weight of a micro-batch is for example its number of tokens"
        )
    return loss, weight


def _is_weight(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.numel() == 1 and not value.requires_grad and not value.is_complex()
    return isinstance(value, int | float) and not isinstance(value, bool)


class Weights:
    """Gradients of micro-batches summed by weight: Σ wⱼ gⱼ / Σ wⱼ once ``settle`` was called.

    Each enters by its share of the first one's weight, so that a single micro-batch is untouched
    and numbers stay in range under float16. Where there are weights, they alone decide the shares:
    the scales of all micro-batches then only give the sum.
    """

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """No micro-batch has been accumulated."""
        self._first: tuple[float, float] | None = None
        self._scales = self._weighted = 0.0
        self.last = 1.0

    def share(self, weight: float | None, scale: float) -> float:
        """The factor of the next micro-batch's loss, whose scale without weights is ``scale``."""
        if weight and self._first is None:
            self._first = weight, scale
        if weight is None:
            share = scale
        else:
            share = weight / self._first[0] * self._first[1] if self._first else 0.0
        self.last = share / scale if scale else 1.0
        self._scales += scale
        self._weighted += share
        return share

    def settle(self, gradients: Iterable[torch.Tensor | None]) -> None:
        """Divide what was summed by the sum of the weights."""
        if self._weighted > 0 and not math.isclose(self._weighted, self._scales):
            factor = self._scales / self._weighted
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(factor)
        self._scales = self._weighted = 0.0


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
