"""Norms of each micro-batch's gradient, read while it is being accumulated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np
import torch

from batchfinder.noise.metric import EUCLIDEAN, Metric
from batchfinder.noise.sketch import Sketch


@dataclass(frozen=True)
class Reading:
    """One backward: |g|², its sketch, and whether the norm is that of the whole gradient.

    ``whole`` is False where a parameter got its gradient in parts (re-entrant checkpointing of a
    shared layer, a gradient penalty): the norm of the sum is then not the sum of the norms, while
    the sketch, being linear, still holds.
    """

    squared_norm: float
    sketch: np.ndarray | None
    whole: bool


class GradientTap:
    """Reads every backward's gradient through hooks on the parameters; stores none.

    A hook of ``Tensor.register_hook`` on a parameter sees the gradient of one backward, before it
    is added to ``.grad``. Accumulation goes on as usual, so that ``.grad`` is the one accumulator.
    A parameter without a gradient counts as zero.
    """

    def __init__(
        self,
        parameters: Sequence[torch.Tensor],
        sketch: Sketch | None = None,
        metric: Metric = EUCLIDEAN,
    ) -> None:
        self._parameters = parameters
        self._sketch = sketch
        self._metric = metric
        self._norms: list[torch.Tensor] = []
        self._fired: list[int] = [0] * len(parameters)
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Self:
        self._handles = [
            parameter.register_hook(partial(self._see, index))  # type: ignore[no-untyped-call]  # torch's
            for index, parameter in enumerate(self._parameters)
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _see(self, index: int, gradient: torch.Tensor) -> None:
        gradient = self._metric(index, gradient.detach())
        self._fired[index] += 1
        self._norms.append(_norm(gradient))
        if self._sketch is not None:
            self._sketch.add(index, gradient)

    def read(self, divisor: float = 1.0) -> Reading:
        """What passed since the last ``read``, with gradients divided by ``divisor``."""
        squared = squared_sum(self._norms) / divisor**2
        sketch = None if self._sketch is None else self._sketch.finish() / divisor
        reading = Reading(squared, sketch, max(self._fired, default=0) <= 1)
        self._norms = []
        self._fired = [0] * len(self._parameters)
        return reading


def accumulated_square(
    parameters: Sequence[torch.Tensor], divisor: float = 1.0, metric: Metric = EUCLIDEAN
) -> float:
    """|Σ .grad|² over all parameters, with gradients divided by ``divisor``."""
    norms = [
        _norm(metric(index, parameter.grad))
        for index, parameter in enumerate(parameters)
        if parameter.grad is not None
    ]
    return squared_sum(norms) / divisor**2


def squared_sum(norms: Sequence[torch.Tensor]) -> float:
    """Σ norm², with one transfer per device and precision."""
    groups: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for norm in norms:
        groups.setdefault((norm.device, norm.dtype), []).append(norm)
    totals = [float(torch.linalg.vector_norm(torch.stack(group))) for group in groups.values()]
    return sum(total**2 for total in totals)


def _norm(gradient: torch.Tensor) -> torch.Tensor:
    values = gradient
    if gradient.layout == torch.sparse_coo:
        values = gradient.coalesce().values()
    elif gradient.layout != torch.strided:
        values = gradient.to_dense()
    wide = values.dtype if values.dtype in _WIDE else torch.float32
    norm: torch.Tensor = torch.linalg.vector_norm(values, dtype=wide)
    return norm


_WIDE = (torch.float64, torch.complex64, torch.complex128)
