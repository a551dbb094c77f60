"""Micro-batches of unequal weight, such as their counts of tokens, in one accumulated mean."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from batchfinder.errors import UnknownLoss

__all__ = ["Weights", "split_weight"]


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
            f"expected train_step to give (loss, weight) with a weight of at least 0; found "
            f"{weight}: the weight is what its micro-batch counts for, such as its tokens"
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
