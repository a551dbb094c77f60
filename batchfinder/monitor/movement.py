"""How far and which way the weights move: ‖Δw‖/‖w‖ and cosines between consecutive updates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from batchfinder.monitor.gradients import SIZE
from batchfinder.noise import Sketch

__all__ = ["Movement", "Weights", "movement"]


@dataclass(frozen=True)
class Movement:
    """Consecutive updates: each one's ‖Δw‖/‖w‖, and the cosines between neighbours.

    ``still`` says that not one weight changed. Ratios are known to about 4%.
    """

    ratios: tuple[float, ...]
    cosines: tuple[float, ...]
    still: bool

    @property
    def ratio(self) -> float:
        """The median of the ratios; NaN where there is none."""
        return float(np.median(self.ratios)) if self.ratios else math.nan

    @property
    def cosine(self) -> float:
        """The mean of the cosines; NaN where there is none."""
        return float(np.mean(self.cosines)) if self.cosines else math.nan


def movement(places: Sequence[np.ndarray]) -> Movement:
    """The movement between consecutive sketches of the weights, oldest first."""
    updates = [after - before for before, after in itertools.pairwise(places)]
    sizes = [float(np.linalg.norm(update)) for update in updates]
    lengths = [float(np.linalg.norm(place)) for place in places]
    ratios = tuple(
        size / length if length else math.nan for size, length in zip(sizes, lengths, strict=False)
    )
    cosines = tuple(
        float(first @ second) / (a * b)
        for (first, second), (a, b) in zip(
            itertools.pairwise(updates), itertools.pairwise(sizes), strict=True
        )
        if a and b
    )
    return Movement(ratios, cosines, bool(updates) and not any(sizes))


class Weights:
    """Sketches of the weights at the ends of consecutive steps. No copy of the weights is made."""

    def __init__(self) -> None:
        self._parameters: list[int] = []
        self._sketch: Sketch | None = None
        self._places: list[np.ndarray] = []
        self._last = -1

    def note(self, step: int, parameters: Sequence[torch.Tensor]) -> None:
        """Sketch ``parameters`` as they are after ``step``; a gap in the steps begins anew."""
        same = [*map(id, parameters)]
        if self._sketch is None or same != self._parameters:
            self._sketch, self._places = Sketch(parameters, SIZE, seed=2), []
            self._parameters = same
        if step != self._last + 1:
            self._places = []
        for index, parameter in enumerate(parameters):
            self._sketch.add(index, parameter.detach())
        self._places = [*self._places[-_UPDATES:], self._sketch.finish()]
        self._last = step

    def noted(self, step: int) -> bool:
        """Whether ``step`` was the last that was noted."""
        return self._last == step

    def movement(self) -> Movement:
        """The movement over the consecutive steps noted last, at most three updates."""
        return movement(self._places)


_UPDATES = 3
