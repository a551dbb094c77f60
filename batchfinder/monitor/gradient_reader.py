"""Gradients read by hooks for the length of one optimizer step, small ones sketched as one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch

from batchfinder.noise import EUCLIDEAN, Metric, Sketch

__all__ = ["SIZE", "SMALL", "GradientReader", "Numbered", "Seen", "add_joined", "in_groups", "one"]


SIZE = 1024
"""Numbers of one sketch."""
SMALL = 2**16
"""Numbers that are put side by side at most."""

Numbered: TypeAlias = tuple[int, torch.Tensor]
"""A tensor with its index in the sketch."""


def in_groups(numbered: Iterable[Numbered]) -> list[list[Numbered]]:
    """Tensors in the order of their indices, with small neighbours in one group.

    A sketch takes a group as the numbers of its first tensor and of those that follow it: of one
    dtype and device, with no index left out, together at most ``SMALL`` numbers.
    """
    groups: list[list[Numbered]] = []
    last, kind, total = -2, None, 0
    for index, tensor in numbered:
        same = (tensor.dtype, tensor.device)
        count = tensor.numel()
        if index == last + 1 and same == kind and total + count <= SMALL:
            groups[-1].append((index, tensor))
            total += count
        else:
            groups.append([(index, tensor)])
            kind, total = same, count
        last = index
    return groups


def add_joined(sketch: Sketch, groups: Sequence[Sequence[Numbered]]) -> None:
    """Add each group of ``in_groups`` to ``sketch``."""
    for group in groups:
        first, tensor = group[0]
        if len(group) > 1:
            tensor = torch.cat([each.reshape(-1) for _, each in group])
        sketch.add(first, tensor)


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
    ``mark`` ends a micro-batch; a forward pass of the model begins another one, unless ``in_part``
    says that all passes belong to one part of a batch that was handed out.
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
        self._small: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        """Small gradients of the micro-batch under way, as they are and in the metric, by index.

        They are sketched together. The very tensors are held, not views of them: while somebody
        holds them, autograd copies them to ``.grad`` and nothing changes them in place."""
        self._small_numbers = 0
        self._divisor = 0.0
        self.in_part = False
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
        self._handles.append(self._model.register_forward_pre_hook(_Begins(self._begin)))

    def mark(self) -> None:
        """End the micro-batch, if any gradient was seen since the last one ended."""
        if not self._divisor or self._sketch is None or self._plain is None:
            return
        self._add_small()
        plain = self._plain.finish() / self._divisor
        self._plain_rows.append(plain)
        other = self._metric is not EUCLIDEAN
        self._measured_rows.append(self._sketch.finish() / self._divisor if other else plain)
        self._divisor = 0.0

    def _begin(self) -> None:
        """Before a forward pass: within a part only a zeroed gradient ends what was seen."""
        if self._divisor and not (self.in_part and any(map(_has_some, self._parameters))):
            self.mark()

    def stop(self) -> Seen | None:
        """Remove the hooks; what was seen since ``start``, ``None`` where that is nothing."""
        self.in_part = False
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
        # scaled at once: an update may come before the micro-batch ends, and changes the metric
        measured = gradient
        if self._metric is not EUCLIDEAN:
            measured = self._metric(index, gradient.detach())
        count = gradient.numel()
        if index in self._small or self._small_numbers + count > SMALL:
            self._add_small()
        if count > SMALL or gradient.layout != torch.strided:
            self._add([(index, gradient)], [(index, measured)])
        else:
            self._small[index] = gradient, measured
            self._small_numbers += count

    def _add_small(self) -> None:
        small, self._small, self._small_numbers = sorted(self._small.items()), {}, 0
        plain = [(index, gradient) for index, (gradient, _) in small]
        self._add(plain, [(index, measured) for index, (_, measured) in small])

    def _add(self, plain: Sequence[Numbered], measured: Sequence[Numbered]) -> None:
        if self._sketch is None or self._plain is None:
            return
        with torch.no_grad():
            add_joined(self._plain, in_groups(plain))
            if self._metric is not EUCLIDEAN:
                add_joined(self._sketch, in_groups(measured))


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
