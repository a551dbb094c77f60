"""How the user trains: model, loader, loss, validation; and what one size takes of memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from batchfinder.errors import InvalidArgument
from batchfinder.model_checks import check_model
from batchfinder.protocols import Batch, MemoryBackend, Setup
from batchfinder.results import Outcome
from batchfinder.run.memory import backend_for
from batchfinder.run.step import Step, compute_of, context_for, moved, step_from
from batchfinder.run.trial import run_trial, tensors_in

__all__ = ["Recipe", "endless", "peak_of", "rate_and_family", "samples_in"]


@dataclass(frozen=True)
class Recipe:
    """How the user trains: everything but size, rate and seed."""

    make_model: Callable[[], torch.nn.Module]
    make_loader: Callable[[int], Iterable[Batch]]
    make_optimizer: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer] | None = None
    assumed_rate: float | None = None
    loss_fn: Any = None
    train_step: Any = None
    validation: Iterable[Batch] | None = None
    metric: Callable[[Any, Batch], Any] | None = None
    autocast: Any = None
    make_grad_scaler: Callable[[], Any] | None = None
    memory_limit: int | str | None = None

    def build(self, seed: int) -> tuple[torch.nn.Module, Step]:
        """A model and its step, the same for the same seed."""
        torch.manual_seed(seed)
        model = self.make_model()
        check_model([model])
        model.train()
        trained = [p for p in model.parameters() if p.requires_grad]
        step = step_from(
            model,
            loss_fn=self.loss_fn,
            train_step=self.train_step,
            optimizer=None if self.make_optimizer is None else self.make_optimizer(trained),
            autocast=self.autocast,
            grad_scaler=None if self.make_grad_scaler is None else self.make_grad_scaler(),
            base_learning_rate=self.assumed_rate,
        )
        return model, step

    def look(self, model: torch.nn.Module, step: Step) -> tuple[float | None, float | None]:
        """Validation loss and metric, means over samples; ``None`` for what was not asked."""
        if self.validation is None:
            return None, None
        loss_of = compute_of(model, self.loss_fn, self.train_step)
        losses, metrics = list[float](), list[float]()
        shares, weights = list[float](), list[float]()
        for here in self._evaluated(model, step, self.validation):
            count = samples_in(here)
            loss, weight = loss_of(here)
            losses.append(math.nan if loss is None else float(loss))
            shares.append(count if weight is None else weight)
            if self.metric is not None:
                metrics.append(float(self.metric(model, here)))
            weights.append(count)
        return _mean(losses, shares), _mean(metrics, weights)

    def metric_on(
        self, model: torch.nn.Module, step: Step, batches: Iterable[Batch]
    ) -> float | None:
        """The metric's mean over ``batches``; ``None`` without one."""
        if self.metric is None:
            return None
        found, weights = list[float](), list[float]()
        for here in self._evaluated(model, step, batches):
            found.append(float(self.metric(model, here)))
            weights.append(samples_in(here))
        return _mean(found, weights)

    def _evaluated(
        self, model: torch.nn.Module, step: Step, batches: Iterable[Batch]
    ) -> Iterator[Batch]:
        """Each batch on the device, for use in evaluation mode and without gradients."""
        context = context_for(self.autocast, step.device, None)
        with torch.no_grad(), _evaluating(model):
            for batch in batches:
                with context():
                    yield moved(batch, step.device)


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, and every module's own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def endless(loader: Iterable[Batch]) -> Iterator[Batch]:
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise InvalidArgument(
                "expected make_loader(size) to yield at least one batch; found none: the dataset "
                "is smaller than the batch, or the loader an iterator that was used up"
            )


def samples_in(batch: Batch) -> int:
    """The length of the first tensor in the batch; 1 where there is none."""
    first = next(tensors_in(batch), None)
    return len(first) if first is not None and first.ndim else 1


def _mean(values: list[float], weights: list[float]) -> float | None:
    if not values or not sum(weights):
        return None
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)


class _OneBatch:
    """A source whose only batch is the loader's first: for a trial of its memory."""

    unit, length, ceiling, base_batch_size = "samples", None, None, None
    smallest, varies, worker_copies, notes = 1, False, 0, ()

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def take(self, size: int) -> Batch:
        return self._batch

    ordinary = draw = take

    def rewind(self, seed: int) -> None: ...

    def expect(self, sizes: Sequence[int]) -> None: ...

    def count(self, batch: Batch) -> int:
        return samples_in(batch)

    def rebuild(self, size: int) -> Iterable[Batch]:
        return [self._batch]

    def expected_seconds(self, size: int) -> float:
        return 0.0

    def as_ordinary(self) -> _OneBatch:
        return self

    def close(self) -> None: ...


def peak_of(recipe: Recipe, size: int) -> tuple[Outcome, int | None]:
    """Whether two steps at ``size`` fit in the memory limit, and their peak."""
    _, step = recipe.build(0)
    memory: MemoryBackend = backend_for(step.device, recipe.memory_limit)
    batch = next(endless(recipe.make_loader(size)))
    trial = run_trial(Setup(step, _OneBatch(batch), memory), size)
    return trial.outcome, trial.peak_bytes


def rate_and_family(recipe: Recipe, size: int) -> tuple[float | None, str]:
    """The rate and the family of the optimizer, after a look at what a step at ``size`` does.

    Raises:
        InvalidArgument: where ``train_step`` updates by itself, with no optimizer of this study;
            where gradients are sparse and the optimizer that was assumed takes none such.
    """
    _, step = recipe.build(0)
    found = step.learning_rate(), step.optimizer_family
    step.look(moved(next(endless(recipe.make_loader(size))), step.device))
    if step.updates_itself:
        raise InvalidArgument(
            "compare_batch_sizes: expected a train_step that returns the loss of (model, batch) "
            "and leaves backward and update to the study; found one that does its own: return the "
            "loss before backward, and pass make_optimizer="
        )
    return found
