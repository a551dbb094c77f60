"""Gradients read as they are made, whole or as a sketch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import torch

from batchfinder.protocols import TrainStep

_FOLD = 2**20
"""Width of the first fold: 12 MiB with its signs, whatever the size of the model."""


class Sketch:
    """A random linear map from gradients (P numbers) to ``size`` numbers, kept on each device.

    Inner products survive in the mean, with a relative error near √(2 / size). Every number gets
    a random sign; rows of up to 2²⁰ numbers are added up, and then its columns. A sign for each
    number, not only for each row, matters: a linear layer's gradient is nearly of rank one, so
    that its rows are alike. Each row takes its signs from another place of one table twice as
    long, so that a large model needs no table of its own size. Draws from its own generator, and
    leaves the global ones alone.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], size: int, seed: int = 0) -> None:
        lengths = [each.numel() * (2 if each.is_complex() else 1) for each in parameters]
        total = sum(lengths)
        self.size = size
        self.width = max(min(_FOLD // size, -(-total // size)), 1) * size
        self.starts = [sum(lengths[:index]) for index in range(len(lengths))]
        generator = torch.Generator().manual_seed(seed)
        rows = -(-total // self.width)
        self._offsets = torch.randint(0, self.width, (rows,), generator=generator).tolist()
        self._signs = torch.randint(0, 2, (2 * self.width,), generator=generator).float() * 2 - 1
        self._folds: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def add(self, index: int, gradient: torch.Tensor) -> None:
        """Add the gradient of parameter ``index``."""
        flat = _flat(gradient)
        if flat.device not in self._folds:
            fold = torch.zeros(self.width, device=flat.device)
            self._folds[flat.device] = (fold, self._signs.to(flat.device))
        fold, signs = self._folds[flat.device]
        done = 0
        while done < len(flat):
            row, column = divmod(self.starts[index] + done, self.width)
            count = min(self.width - column, len(flat) - done)
            first = self._offsets[row] + column
            piece = fold[column : column + count]
            piece.addcmul_(flat[done : done + count], signs[first : first + count])
            done += count

    def finish(self) -> np.ndarray:
        """The sketch of what was added since the last ``finish``, shape (size,), float64."""
        total = np.zeros(self.size)
        for fold, _ in self._folds.values():
            total += fold.view(-1, self.size).sum(0).cpu().double().numpy()
            fold.zero_()
        return total


def _flat(gradient: torch.Tensor) -> torch.Tensor:
    if gradient.layout != torch.strided:
        gradient = gradient.to_dense()
    if gradient.is_complex():
        gradient = torch.view_as_real(gradient)
    return gradient.reshape(-1).float()


MATURE = 20
"""Optimizer steps before second moments say something of a gradient's usual size."""

FLOOR = 0.01
"""Second moments count as at least this share of their tensor's mean. A row of an embedding that
was never seen has none, and would else outweigh all others when it is first seen."""

_SECOND_MOMENTS = ("exp_avg_sq", "square_avg")


class Metric(Protocol):
    """Scales the gradient of parameter ``index`` before its length is taken."""

    @property
    def name(self) -> str: ...
    def __call__(self, index: int, gradient: torch.Tensor) -> torch.Tensor: ...
    def of(
        self, parameters: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """The second moments of the ``wanted`` ones of ``parameters``, where it scales by them."""


class Euclidean:
    """Gradients as they are: the noise scale of the textbook, and of SGD."""

    name = ""

    def __call__(self, index: int, gradient: torch.Tensor) -> torch.Tensor:
        return gradient

    def of(
        self, parameters: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        return []


class SecondMoments:
    """Gradients over the root of the optimizer's running second moments, as Adam steps.

    The noise scale then is tr(PΣP) / |PG|² with P the diagonal that the optimizer multiplies
    gradients with (Qiao et al. 2021, arXiv:2008.12260, equation 8). Bias corrections are the same
    for all coordinates and fall out of the ratio. Nothing of the parameters' size is kept.
    """

    name = "in the optimizer's metric"

    def __init__(self, moments: Sequence[torch.Tensor | None]) -> None:
        self._moments = moments

    def __call__(self, index: int, gradient: torch.Tensor) -> torch.Tensor:
        moment = self._moments[index]
        if moment is None:
            return torch.zeros_like(gradient, memory_format=torch.preserve_format)
        if gradient.layout != torch.strided:
            gradient = gradient.to_dense()
        moment = moment.to(gradient.device, torch.float32)
        return gradient * floored_scale(moment, moment.mean())

    def of(
        self, parameters: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """The moments of ``wanted`` ones of the ``parameters``; zeros where one has none."""
        known = {id(p): moment for p, moment in zip(parameters, self._moments, strict=True)}
        return [
            torch.zeros_like(each) if (found := known.get(id(each))) is None else found
            for each in wanted
        ]


def floored_scale(moment: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """What a gradient is multiplied by, from second moments and their ``mean`` over its tensor."""
    return moment.clamp(min=mean * FLOOR).add(_TINY).rsqrt()


def metric_of(step: TrainStep) -> Metric:
    """The metric of the step's optimizers: their second moments once mature, else Euclidean."""
    return metric_for(step.parameters(), step.optimizers())


def metric_for(
    parameters: Sequence[torch.Tensor], optimizers: Iterable[torch.optim.Optimizer]
) -> Metric:
    """The metric of these optimizers: their second moments once mature, else Euclidean.

    Knows Adam, AdamW, NAdam, RAdam and RMSprop by the state they keep. An optimizer without such
    state is Euclidean.
    """
    states: dict[torch.Tensor, dict[str, Any]] = {
        key: state for each in optimizers for key, state in each.state.items()
    }
    updates = float(next(iter(states.values()), {}).get("step", 0))
    if updates < MATURE:
        return EUCLIDEAN
    found = [_second_moment(states.get(parameter, {}), parameter) for parameter in parameters]
    return SecondMoments(found) if any(moment is not None for moment in found) else EUCLIDEAN


def _second_moment(state: dict[str, Any], parameter: torch.Tensor) -> torch.Tensor | None:
    for name in _SECOND_MOMENTS:
        moment = state.get(name)
        if isinstance(moment, torch.Tensor) and moment.shape == parameter.shape:
            return moment
    return None


EUCLIDEAN = Euclidean()
_TINY = torch.finfo(torch.float32).tiny


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


class Backwards:
    """What passes in a backward, part by part, until it is read."""

    def __init__(self, parts: int, sketch: Sketch | None) -> None:
        self._sketch = sketch
        self._norms: list[torch.Tensor] = []
        self._passed = [0] * parts

    def pass_through(self, index: int, gradient: torch.Tensor) -> None:
        """Count the gradient of the part ``index``, already in its metric."""
        self._passed[index] += 1
        self._norms.append(vector_norm(gradient))
        if self._sketch is not None:
            self._sketch.add(index, gradient)

    def read(self, divisor: float = 1.0) -> Reading:
        """What passed since the last ``read``, with gradients divided by ``divisor``."""
        squared = squared_sum(self._norms) / divisor**2
        sketch = None if self._sketch is None else self._sketch.finish() / divisor
        reading = Reading(squared, sketch, max(self._passed, default=0) <= 1)
        self._norms = []
        self._passed = [0] * len(self._passed)
        return reading


class GradientHooks(Backwards):
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
        super().__init__(len(parameters), sketch)
        self._parameters = parameters
        self._metric = metric
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
        self.pass_through(index, self._metric(index, gradient.detach()))

    def mean_square(self, divisor: float) -> float:
        """|Σ .grad|² over all parameters, with gradients divided by ``divisor``."""
        norms = [
            vector_norm(self._metric(index, parameter.grad))
            for index, parameter in enumerate(self._parameters)
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


def vector_norm(gradient: torch.Tensor) -> torch.Tensor:
    values = gradient
    if gradient.layout == torch.sparse_coo:
        values = gradient.coalesce().values()
    elif gradient.layout != torch.strided:
        values = gradient.to_dense()
    wide = values.dtype if values.dtype in _WIDE else torch.float32
    norm: torch.Tensor = torch.linalg.vector_norm(values, dtype=wide)
    return norm


_WIDE = (torch.float64, torch.complex64, torch.complex128)
