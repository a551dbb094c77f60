"""Many short trainings of one task at one batch size at once: their weights in one matrix.

Small networks spend their time on calls rather than on numbers; rates and seeds side by side in
one call take a fraction of the time, and each training is what it would be alone: its own weights,
its own order of the data, its own rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from sweep import RAMP
from tasks import Task
from torch import Tensor
from torch.func import functional_call, vmap

__all__ = ["Curve", "Stack", "curves"]

GROWTH = 1.06
"""The validation loss is looked at whenever the steps have grown by so much."""
RAN_AWAY = 3.0
"""A training has run away once its validation loss is this many times that of its start."""


@dataclass(frozen=True)
class Curve:
    """The validation losses of one training at the steps where it was looked at."""

    rate: float
    seed: int
    steps: tuple[int, ...]
    losses: tuple[float, ...]

    def reached(self, target: float) -> float:
        """Steps until the median of three looks meets the target; ``inf`` where none does."""
        before = (0.0, math.inf)
        for at in range(2, len(self.losses)):
            smooth = sorted(self.losses[at - 2 : at + 1])[1]
            step = self.steps[at]
            if smooth <= target:
                past, above = before
                share = (above - target) / (above - smooth) if math.isfinite(above) else 1.0
                return past + share * (step - past)
            before = (float(step), smooth)
        return math.inf

    def at(self, step: int) -> float:
        """The median of the last three looks up to a step; ``inf`` where it had run away."""
        seen = [x for s, x in zip(self.steps, self.losses, strict=True) if s <= step][-3:]
        finite = all(map(math.isfinite, seen))
        return sorted(seen)[len(seen) // 2] if seen and finite else math.inf


class Stack:
    """Trainings of one task at one size, one for every rate and seed.

    Args:
        task: what is trained, by AdamW or by SGD as its family says.
        size: samples per optimizer step.
        pairs: the rate and the seed of each training.
    """

    def __init__(self, task: Task, size: int, pairs: Sequence[tuple[float, int]]) -> None:
        self.task, self.size, self.pairs = task, size, list(pairs)
        self._seeds = sorted({seed for _, seed in self.pairs})
        models = {seed: self._model(seed) for seed in self._seeds}
        self._module = models[self._seeds[0]]
        self._shapes = [(name, p.shape) for name, p in self._module.named_parameters()]
        rows = [_flat(models[seed].parameters()) for _, seed in self.pairs]
        self.weights = torch.stack(rows).requires_grad_()
        named = [dict(models[seed].named_buffers()) for _, seed in self.pairs]
        self._buffers = {n: torch.stack([each[n].clone() for each in named]) for n in named[0]}
        self._rates = torch.tensor([[rate] for rate, _ in self.pairs])
        self._place = torch.tensor([self._seeds.index(seed) for _, seed in self.pairs])
        self._moments = (torch.zeros_like(self.weights), torch.zeros_like(self.weights))
        self._feed = self._batches()
        self._held_out = list(task.data()[1].tensors)
        self.step = 0

    def _model(self, seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        return self.task.make_model()

    def _batches(self) -> Iterator[list[Tensor]]:
        """For every training its seed's batch: each (trainings, size, ...)."""
        tensors = self.task.data()[0].tensors
        generators = [torch.Generator().manual_seed(seed) for seed in self._seeds]
        while True:
            orders = torch.stack(
                [torch.randperm(len(tensors[0]), generator=each) for each in generators]
            )
            for start in range(0, len(tensors[0]) - self.size + 1, self.size):
                index = orders[:, start : start + self.size]
                yield [tensor[index][self._place] for tensor in tensors]

    def _losses(self, weights: Tensor, batch: list[Tensor], *, shared: bool) -> Tensor:
        def one(row: Tensor, buffers: dict[str, Tensor], *own: Tensor) -> Tensor:
            def model(*inputs: Tensor) -> Tensor:
                return functional_call(self._module, (self._parameters(row), buffers), inputs)

            return self.task.loss(model, list(own))

        sides = (0, 0, *(None if shared else 0 for _ in batch))
        return vmap(one, in_dims=sides, randomness="different")(weights, self._buffers, *batch)

    def _parameters(self, row: Tensor) -> dict[str, Tensor]:
        parts = row.split([shape.numel() for _, shape in self._shapes])
        return {n: part.view(shape) for (n, shape), part in zip(self._shapes, parts, strict=True)}

    @torch.no_grad()
    def validation(self, weights: Tensor | None = None) -> list[float]:
        """The loss on the validation set, of each training."""
        self._module.eval()
        found = self._losses(
            self.weights if weights is None else weights, self._held_out, shared=True
        )
        self._module.train()
        return [float(x) if math.isfinite(x) else math.inf for x in found]

    def advance(self, decay: float = 1.0) -> None:
        """One optimizer step of each; ``decay`` multiplies every rate."""
        self.step += 1
        losses = self._losses(self.weights, next(self._feed), shared=False)
        (gradient,) = torch.autograd.grad(losses.sum(), self.weights)
        rate = self._rates * (decay * min(1.0, self.step / RAMP))
        with torch.no_grad():
            if self.task.family == "adam":
                self._adamw(gradient, rate)
            else:
                momentum = 0.0 if self.task.family == "sgd" else 0.9
                self.weights -= rate * self._moments[0].mul_(momentum).add_(gradient)

    def _adamw(self, gradient: Tensor, rate: Tensor) -> None:
        """As ``torch.optim.AdamW`` with its defaults."""
        first, second = self._moments
        first.lerp_(gradient, 1 - 0.9)
        second.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
        size = second.sqrt().div_(math.sqrt(1 - 0.999**self.step)).add_(1e-8)
        self.weights.mul_(1 - 0.01 * rate).sub_(rate / (1 - 0.9**self.step) * first / size)


def _flat(parameters: Iterator[Tensor]) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


def curves(
    task: Task,
    size: int,
    pairs: Sequence[tuple[float, int]],
    steps: int,
    *,
    cosine: bool = False,
    targets: Mapping[int, float] | None = None,
    patience: float = math.inf,
) -> list[Curve]:
    """Train each pair for ``steps``, at a constant rate or along a cosine to 0.

    With ``targets``, by seed, until every training has met its own, ran away, or has taken
    ``patience`` times as long as the fastest of its seed.
    """
    stack = Stack(task, size, pairs)
    start = stack.validation()
    looks: list[int] = []
    seen: list[list[float]] = [[] for _ in pairs]
    next_look = 8
    for step in range(1, steps + 1):
        decay = 0.5 * (1 + math.cos(math.pi * step / steps)) if cosine else 1.0
        stack.advance(decay)
        if step < next_look and step < steps:
            continue
        next_look = max(step + 1, round(step * GROWTH))
        looks.append(step)
        for losses, loss, first in zip(seen, stack.validation(), start, strict=True):
            away = bool(losses) and math.isinf(losses[-1])
            losses.append(math.inf if away or not loss < first + RAN_AWAY * abs(first) else loss)
        if targets is not None:
            so_far = _curves(pairs, looks, seen)
            reached = [each.reached(targets[each.seed]) for each in so_far]
            fastest = dict.fromkeys(targets, math.inf)
            for curve, met in zip(so_far, reached, strict=True):
                fastest[curve.seed] = min(fastest[curve.seed], met)
            going = (
                curve
                for curve, met in zip(so_far, reached, strict=True)
                if math.isinf(met) and math.isfinite(curve.losses[-1])
            )
            if all(step > patience * fastest[curve.seed] for curve in going):
                break
    return _curves(pairs, looks, seen)


def _curves(
    pairs: Sequence[tuple[float, int]], looks: list[int], seen: list[list[float]]
) -> list[Curve]:
    return [
        Curve(rate, seed, tuple(looks), tuple(losses))
        for (rate, seed), losses in zip(pairs, seen, strict=True)
    ]
