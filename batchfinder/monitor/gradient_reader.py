"""Gradients read by hooks for the length of one optimizer step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from batchfinder.noise import EUCLIDEAN, Metric, Sketch

__all__ = ["SIZE", "GradientReader", "Seen", "one"]

SIZE = 1024
"""Numbers of one sketch."""


@dataclass(frozen=True)
class Seen:
    """Sketches of the micro-batches' gradients in the metric and as they are, both (k, size)."""

    measured: np.ndarray
    plain: np.ndarray


class GradientReader:
    """Hooks on the parameters for the length of one optimizer step; nothing remains afterwards.

    A hook sees the gradient of one backward before it is added to ``.grad``: before clipping, and
    under data-parallel wrappers before ranks are averaged. Only linear sketches are kept, so that
    a gradient that comes in parts (several losses, re-entrant checkpointing) adds up.
    ``mark`` ends a micro-batch; a forward pass of the model begins another one.
    """

    def __init__(self, model: torch.nn.Module, parameters: Sequence[torch.Tensor]) -> None:
        self._model = model
        self._parameters = parameters
        self._sketch: Sketch | None = None
        self._plain: Sketch | None = None
        self._metric: Metric = EUCLIDEAN
        self._scale: Callable[[], float] = one
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._measured_rows: list[np.ndarray] = []
        self._plain_rows: list[np.ndarray] = []
        self._divisor = 0.0
        self.taken_anew = False
        """Whether a gradient was zeroed since ``start``, and another one taken."""

    def start(self, metric: Metric, scale: Callable[[], float]) -> None:
        """Read from here on; ``scale`` tells the loss scale when the first gradient comes."""
        self.stop()
        if self._sketch is None:
            self._sketch = Sketch(self._parameters, SIZE)
            self._plain = Sketch(self._parameters, SIZE, seed=1)
        self._metric, self._scale, self.taken_anew = metric, scale, False
        self._handles = [
            parameter.register_hook(partial(self._see, index))  # type: ignore[no-untyped-call]  # torch's
            for index, parameter in enumerate(self._parameters)
        ]
        self._handles.append(self._model.register_forward_pre_hook(_Begins(self.mark)))

    def mark(self) -> None:
        """End the micro-batch, if any gradient was seen since the last one ended."""
        if not self._divisor or self._sketch is None or self._plain is None:
            return
        plain = self._plain.finish() / self._divisor
        self._plain_rows.append(plain)
        other = self._metric is not EUCLIDEAN
        self._measured_rows.append(self._sketch.finish() / self._divisor if other else plain)
        self._divisor = 0.0

    def stop(self) -> Seen | None:
        """Remove the hooks; what was seen since ``start``, ``None`` where that is nothing."""
        self.mark()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        measured, plain = self._measured_rows, self._plain_rows
        self._measured_rows, self._plain_rows = [], []
        return Seen(np.stack(measured), np.stack(plain)) if measured else None

    def forget_if_zeroed(self) -> bool:
        """Forget what was seen if ``.grad`` holds none of it: no update will be made of that.

        So it is where another model's loss goes through this one, and where a step takes its
        gradient several times (LBFGS, sharpness-aware steps).
        """
        self.mark()
        if not any(row.any() for row in self._plain_rows) or any(map(_has_some, self._parameters)):
            return False
        self._measured_rows, self._plain_rows, self.taken_anew = [], [], True
        return True

    def _see(self, index: int, gradient: torch.Tensor) -> None:
        if self._sketch is None or self._plain is None:
            return
        if not self._divisor:
            self.forget_if_zeroed()
            self._divisor = self._scale()
        gradient = gradient.detach()
        self._plain.add(index, gradient)
        if self._metric is not EUCLIDEAN:
            self._sketch.add(index, self._metric(index, gradient))


class _Begins:
    """The hook before a forward pass. In a copy of the model, or a file of it, it does nothing."""

    def __init__(self, mark: Callable[[], None]) -> None:
        self._mark = mark

    def __call__(self, *_: Any) -> None:
        self._mark()

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (contextlib.nullcontext(), "__exit__")


def _has_some(parameter: torch.Tensor) -> bool:
    """Whether ``.grad`` holds anything but zeros."""
    held = parameter.grad
    return held is not None and (held.layout != torch.strided or bool(held.any()))


def one() -> float:
    """The loss scale where there is none."""
    return 1.0
