"""An update: gradients weighted, unscaled and clipped, then the optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch

from batchfinder.errors import UnknownLoss

__all__ = ["Clip", "Updates", "Weights", "split_weight"]


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
