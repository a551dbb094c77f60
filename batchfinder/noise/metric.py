"""In which lengths gradients are measured: as they are, or as the optimizer scales them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch

from batchfinder.protocols import TrainStep

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


class Euclidean:
    """Gradients as they are: the noise scale of the textbook, and of SGD."""

    name = ""

    def __call__(self, index: int, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


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
        floor = moment.mean() * FLOOR
        return gradient * moment.clamp(min=floor).add(_TINY).rsqrt()


def metric_of(step: TrainStep) -> Metric:
    """The metric of the step's optimizer: its second moments once mature, else Euclidean.

    A step that tells of no optimizers (no ``optimizers()``) is Euclidean.
    """
    return metric_for(step.parameters(), getattr(step, "optimizers", tuple)())


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
    if max((_age(state) for state in list(states.values())[:1]), default=0) < MATURE:
        return EUCLIDEAN
    found = [_second_moment(states.get(parameter, {}), parameter) for parameter in parameters]
    return SecondMoments(found) if any(moment is not None for moment in found) else EUCLIDEAN


def _age(state: dict[str, Any]) -> float:
    """Updates that a parameter has had."""
    return float(state.get("step", 0))


def _second_moment(state: dict[str, Any], parameter: torch.Tensor) -> torch.Tensor | None:
    for name in _SECOND_MOMENTS:
        moment = state.get(name)
        if isinstance(moment, torch.Tensor) and moment.shape == parameter.shape:
            return moment
    return None


EUCLIDEAN = Euclidean()
_TINY = torch.finfo(torch.float32).tiny
