"""Gradients of sharded models, read where they are reduced.

Under ``fully_shard`` no hook on a parameter sees a gradient: what this rank's samples gave is whole
in the input of each group's reduce-scatter, and ``.grad`` is this rank's part of the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Self

import torch

from batchfinder.errors import NoiseNotMeasured
from batchfinder.noise.gradient_hooks import (
    EUCLIDEAN,
    Backwards,
    GradientHooks,
    Metric,
    Sketch,
    floored_scale,
    vector_norm,
)
from batchfinder.protocols import Ranks, TrainStep
from batchfinder.run.torch_internals.distributed import ShardedGroup, sharded_groups

__all__ = ["GradientReader", "ReducedGradients", "gradient_reader"]


class ReducedGradients(Backwards):
    """As ``GradientHooks``, of the groups of parameters that ``fully_shard`` has made."""

    def __init__(
        self,
        groups: Sequence[ShardedGroup],
        ranks: Ranks,
        *,
        sketch_size: int | None = None,
        seed: int = 0,
        metric: Metric = EUCLIDEAN,
        moments: Sequence[Sequence[torch.Tensor]] = (),
    ) -> None:
        whole = [torch.empty(group.whole_numel, device="meta") for group in groups]
        sketch = None if sketch_size is None else Sketch(whole, sketch_size, seed)
        super().__init__(len(groups), sketch)
        self._groups, self._ranks, self._metric = groups, ranks, metric
        self._moments = moments
        self._own_scales: dict[int, torch.Tensor] = {}

    def __enter__(self) -> Self:
        for index, group in enumerate(self._groups):
            group.listen(partial(self._see, index))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for group in self._groups:
            group.unlisten()

    def _see(self, index: int, gradient: torch.Tensor) -> None:
        if gradient.numel() != self._groups[index].whole_numel:
            raise NoiseNotMeasured(
                "expected a gradient of every parameter under fully_shard; found some without "
                "one, so the gradients of two micro-batches cannot be compared"
            )
        flat = gradient.detach()
        if self._metric is not EUCLIDEAN:
            flat = flat.float() * self._scale(index)
        self.pass_through(index, flat)

    def _scale(self, index: int) -> torch.Tensor:
        """What a group's gradients are multiplied by, laid out as what is reduced."""
        group = self._groups[index]
        own = group.as_shard(self._moments[index])
        rows = own.new_empty((group.shards, own.numel()))
        group.gather(rows.view(-1), own)
        scale, start = torch.empty_like(rows), 0
        for numel, length in zip(group.shard_numels, group.numels, strict=True):
            part = rows[:, start : start + numel]
            scale[:, start : start + numel] = floored_scale(part, part.sum() / length)
            start += numel
        self._own_scales[index] = scale[group.shard_rank].clone()
        return scale.view(-1)

    def mean_square(self, divisor: float) -> float:
        """|mean gradient|² over all ranks, from every rank's shards of ``.grad``."""
        total = 0.0
        for index, group in enumerate(self._groups):
            shard = group.gradient_shard()
            if self._metric is not EUCLIDEAN:
                shard = shard.float() * self._own_scales[index]
            total += float(vector_norm(shard)) ** 2 / group.copies
        return sum(self._ranks.tell("the mean gradient", total)) / divisor**2


GradientReader = ReducedGradients | GradientHooks


def gradient_reader(
    step: TrainStep, metric: Metric = EUCLIDEAN, *, sketch_size: int | None = None, seed: int = 0
) -> GradientReader:
    """What reads the gradient of every backward of ``step``, before ranks average it.

    Raises:
        NoiseNotMeasured: where shards are reduced in a way that does not show it.
    """
    groups = sharded_groups(step.modules())
    if not groups:
        parameters = step.parameters()
        sketch = None if sketch_size is None else Sketch(parameters, sketch_size, seed)
        return GradientHooks(parameters, sketch, metric)
    for group in groups:
        group.refuse_scaled()
    moments = [metric.of(step.parameters(), group.parameters) for group in groups]
    return ReducedGradients(
        groups, step.ranks, sketch_size=sketch_size, seed=seed, metric=metric, moments=moments
    )
