"""The noise scale from the gradient of every single sample, by ``torch.func``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from batchfinder import formulas
from batchfinder.errors import InvalidArgument, NoiseNotMeasured
from batchfinder.keywords import options_named
from batchfinder.noise.context import refuse_zero, said_of
from batchfinder.noise.estimators import FEWEST, TooFew
from batchfinder.noise.gradient_hooks import Sketch
from batchfinder.protocols import Batch, MicroBatches, TrainStep
from batchfinder.results import BatchPlan, NoiseScale
from batchfinder.run.torch_internals.objects import BATCH_NORMS
from batchfinder.run.torch_internals.tensors import tree_leaves, tree_map
from batchfinder.wording import Caveat

Loss = Callable[[nn.Module, Batch], Tensor]


@options_named
@dataclass(frozen=True)
class PerExample:
    """U-statistic over per-sample gradients: the same quantity as the default, by brute force.

    ``loss(model, batch)`` returns the scalar loss of a batch, like a ``train_step``. The first
    dimension of every tensor of the batch counts samples. This estimator is not more precise than
    ``MicroBatchVariance`` for the same samples, is several times slower, and holds ``chunk_size``
    gradients at a time; use it as a check. It does not support models that mix samples (BatchNorm)
    or code that ``torch.func.vmap`` cannot trace.

    Raises:
        InvalidArgument: if the model has BatchNorm in training mode.
        NoiseNotMeasured: if fewer than three micro-batches have finite gradients, or every gradient
            is zero.
    """

    model: nn.Module = field(repr=False)
    loss: Loss = field(repr=False)
    samples: int = 1024
    chunk_size: int = 16
    confidence: float = 0.90
    sketch_size: int = 1024
    seed: int = 0
    warmup_steps: int | None = None

    @property
    def name(self) -> str:
        return "per-example gradients"

    @property
    def along_training(self) -> bool:
        return False

    def with_budget(self, samples: int, *, at_least: int) -> Self:
        return replace(self, samples=samples)

    def in_optimizer_metric(self) -> Self:
        return self

    def estimate(self, step: TrainStep, batches: MicroBatches, plan: BatchPlan) -> NoiseScale:
        """The noise scale at the weights as they are; ``.grad`` is left alone."""
        self._check()
        if not step.ranks.alone:
            raise NoiseNotMeasured(Caveat("noise.one_process"))
        gathered = _Gathered(self)
        for batch in batches:
            gathered.add(batch, step.device)
            if gathered.tried + gathered.tried / gathered.batches > self.samples:
                break
        if len(gathered.sizes) < FEWEST:
            raise TooFew(
                f"expected at least {FEWEST} batches of finite per-sample gradients; found "
                f"{len(gathered.sizes)} of {gathered.batches}"
            )
        point = gathered.moments()
        refuse_zero(point)
        u = point.reciprocal_within(batches.population)
        left = formulas.leave_one_group_out(gathered.sizes, gathered.squares, gathered.gram())
        limits = formulas.jackknife(left, self.confidence, u)
        found = formulas.noise_interval(u, *limits, point.samples)
        lost = gathered.batches - len(gathered.sizes)
        return NoiseScale(
            value=found.value,
            low=found.low,
            high=found.high,
            samples=gathered.tried,
            estimator=self.name,
            gradient_squared=point.gradient_squared,
            noise_trace=point.noise_trace,
            micro_batch=1,
            confidence=self.confidence,
            caveats=(
                *((Caveat("noise.not_finite", count=lost, of=gathered.batches),) if lost else ()),
                *said_of(point),
            ),
        )

    def _check(self) -> None:
        for module in self.model.modules():
            if isinstance(module, BATCH_NORMS) and module.training:
                raise InvalidArgument(
                    "expected a model whose samples are independent; found "
                    f"{type(module).__name__} in training mode, where per-sample gradients are "
                    "undefined: use MicroBatchVariance()"
                )


class _Gathered:
    """Sums over the samples seen so far, and one sketch for each batch's mean gradient."""

    def __init__(self, settings: PerExample) -> None:
        self.settings = settings
        trained = {n: p for n, p in settings.model.named_parameters() if p.requires_grad}
        self.values = {f"model.{name}": value.detach() for name, value in trained.items()}
        self.sketch = Sketch(list(self.values.values()), settings.sketch_size, settings.seed)
        self.total: list[Tensor] | None = None
        self.sizes: list[float] = []
        self.squares: list[float] = []
        self.rows: list[np.ndarray] = []
        self.tried = 0
        self.batches = 0
        wrapped = _Wrapped(settings.model, settings.loss)

        def one(values: dict[str, Tensor], sample: Batch) -> Tensor:
            batch = tree_map(_as_batch, sample)
            loss: Tensor = torch.func.functional_call(wrapped, values, (batch,))
            return loss

        self.gradients = torch.func.vmap(
            torch.func.grad(one), in_dims=(None, 0), randomness="different"
        )

    def add(self, batch: Batch, device: torch.device) -> None:
        """Add a batch, in chunks; one that is not finite is left out whole."""
        batch = tree_map(lambda leaf: leaf.to(device), batch)
        size = len(tree_leaves(batch)[0])
        total: list[Tensor] | None = None
        square = 0.0
        for start in range(0, size, self.settings.chunk_size):
            stop = start + self.settings.chunk_size
            chunk = tree_map(lambda leaf, a=start, b=stop: leaf[a:b], batch)
            parts = list(self.gradients(self.values, chunk).values())
            square += sum(float(part.double().square().sum()) for part in parts)
            sums = [part.sum(0) for part in parts]
            total = sums if total is None else [a + b for a, b in zip(total, sums, strict=True)]
        self.batches += 1
        self.tried += size
        if total is not None and math.isfinite(square):
            self._keep(size, square, total)

    def _keep(self, size: int, square: float, total: list[Tensor]) -> None:
        for index, part in enumerate(total):
            self.sketch.add(index, part)
        self.rows.append(self.sketch.finish() / size)
        self.sizes.append(size)
        self.squares.append(square)
        before = self.total or [torch.zeros_like(part) for part in total]
        self.total = [a + b for a, b in zip(before, total, strict=True)]

    def gram(self) -> np.ndarray:
        rows = np.stack(self.rows)
        return np.asarray(rows @ rows.T)

    def moments(self) -> formulas.Moments:
        n = sum(self.sizes)
        mean = sum(float(part.double().square().sum()) for part in self.total or ()) / n**2
        trace = max(sum(self.squares) - n * mean, 0.0) / (n - 1)
        return formulas.Moments(mean - trace / n, trace, n, int(n))


class _Wrapped(nn.Module):
    """The loss as a module, so that ``functional_call`` reaches the model inside it."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, batch: Batch) -> Tensor:
        return self.loss(self.model, batch)


def _as_batch(leaf: Any) -> Any:
    return leaf.unsqueeze(0) if isinstance(leaf, Tensor) else leaf
