"""How the user trains: model, loader, loss, validation; and what one size takes of memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from batchfinder.errors import InvalidArgument
from batchfinder.protocols import Batch, Setup, Unit
from batchfinder.rates import OptimizerFamily
from batchfinder.results import Outcome
from batchfinder.run.batches import rebuild_loader
from batchfinder.run.memory import backend_for
from batchfinder.run.step import Step, compute_of, context_for, moved, step_of
from batchfinder.run.trial import run_trial, tensors_in
from batchfinder.training import Model, Training, as_list, training_of

__all__ = ["Facts", "Fresh", "MakeTraining", "Recipe", "facts_of", "peak_of"]

MakeTraining: TypeAlias = Callable[[], Model | Training]
"""Builds what is trained anew: the model, or a ``Training`` of it."""


@dataclass(frozen=True)
class Fresh:
    """A training built anew: no step has been taken."""

    training: Training
    step: Step

    def loader(self, size: int) -> Iterable[Batch]:
        """The training loader at ``size``."""
        return rebuild_loader(self.training.loader, size, make_loader=self.training.make_loader)

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches of ``size``, pass after pass."""
        return _endless(self.loader(size))

    def count(self, batch: Batch) -> int:
        """Samples in a batch: by ``count``, else the length of its first tensor; 1 without one."""
        if self.training.count is not None:
            return self.training.count(batch)
        first, along = next(tensors_in(batch), None), self.training.batch_dim or 0
        return first.size(along) if first is not None and first.ndim > along else 1

    def parameters(self) -> int:
        """How many numbers the model has."""
        modules: list[torch.nn.Module] = as_list(self.training.model)
        return sum(p.numel() for module in modules for p in module.parameters())

    def evaluated(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Each batch on the device, for use in evaluation mode and without gradients."""
        context = context_for(self.training.autocast, self.step.device, None)
        with torch.no_grad(), _evaluating(self.training.modules()):
            for batch in batches:
                with context():
                    yield moved(batch, self.step.device)


@dataclass(frozen=True)
class Recipe:
    """How the user trains: everything but size, rate and seed."""

    make_training: MakeTraining
    make_loader: Callable[[int], Iterable[Batch]] | None = None
    assumed_rate: float | None = None
    loss_fn: Any = None
    train_step: Any = None
    validation: Iterable[Batch] | None = None
    metric: Callable[[Any, Batch], Any] | None = None
    memory_limit: int | str | None = None

    def build(self, seed: int) -> Fresh:
        """A training, the same for the same seed.

        Raises:
            InvalidArgument: where what was built cannot be trained.
        """
        torch.manual_seed(seed)
        training = training_of(
            self.make_training(),
            loss_fn=self.loss_fn,
            train_step=self.train_step,
            make_loader=self.make_loader,
        )
        for module in training.modules():
            module.train()
        return Fresh(training, step_of(training, base_learning_rate=self.assumed_rate))

    def look(self, fresh: Fresh) -> tuple[float | None, float | None]:
        """Validation loss and metric, means over samples; ``None`` for what was not asked."""
        if self.validation is None:
            return None, None
        training = fresh.training
        loss_of = compute_of(training.model, training.loss_fn, training.train_step)
        losses, metrics = list[float](), list[float]()
        shares, weights = list[float](), list[float]()
        for here in fresh.evaluated(self.validation):
            count = fresh.count(here)
            loss, weight = loss_of(here)
            losses.append(math.nan if loss is None else float(loss))
            shares.append(count if weight is None else weight)
            if self.metric is not None:
                metrics.append(float(self.metric(training.model, here)))
            weights.append(count)
        return _mean(losses, shares), _mean(metrics, weights)

    def metric_on(self, fresh: Fresh, batches: Iterable[Batch]) -> float | None:
        """The metric's mean over ``batches``; ``None`` without one."""
        if self.metric is None:
            return None
        found, weights = list[float](), list[float]()
        for here in fresh.evaluated(batches):
            found.append(float(self.metric(fresh.training.model, here)))
            weights.append(fresh.count(here))
        return _mean(found, weights)


@contextmanager
def _evaluating(models: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Evaluation mode, and every module's own mode back."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _endless(loader: Iterable[Batch]) -> Iterator[Batch]:
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise InvalidArgument(
                "expected make_loader(size) to yield at least one batch; found none: the dataset "
                "is smaller than the batch, or the loader is an exhausted iterator"
            )


def _mean(values: list[float], weights: list[float]) -> float | None:
    if not values or not sum(weights):
        return None
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)


class _OneBatch:
    """A source whose only batch is the loader's first: for a trial of its memory."""

    unit: Unit = "samples"
    length, ceiling, base_batch_size = None, None, None
    smallest, varies, worker_copies, notes = 1, False, 0, ()

    def __init__(self, batch: Batch, fresh: Fresh) -> None:
        self._batch, self.count = batch, fresh.count

    def take(self, size: int) -> Batch:
        return self._batch

    ordinary = draw = take

    def rewind(self, seed: int) -> None: ...

    def expect(self, sizes: Sequence[int]) -> None: ...

    def rebuild(self, size: int) -> Iterable[Batch]:
        return [self._batch]

    def expected_seconds(self, size: int) -> float:
        return 0.0

    def as_ordinary(self) -> _OneBatch:
        return self

    def close(self) -> None: ...


def peak_of(recipe: Recipe, size: int) -> tuple[Outcome, int | None]:
    """Whether two steps at ``size`` fit in the memory limit, and their peak."""
    fresh = recipe.build(0)
    source = _OneBatch(next(fresh.batches(size)), fresh)
    memory = backend_for(fresh.step.device, recipe.memory_limit)
    trial = run_trial(Setup(fresh.step, source, memory), size)
    return trial.outcome, trial.peak_bytes


@dataclass(frozen=True)
class Facts:
    """What the study must know of a training before it begins.

    ``rate`` and ``family`` are the optimizer's; ``samples`` is the length of the loader's dataset,
    where it has one; ``has_scheduler``, whether the training has one, which no step follows.
    """

    rate: float | None
    family: OptimizerFamily
    samples: int | None
    has_scheduler: bool


def facts_of(recipe: Recipe, size: int) -> Facts:
    """What the study must know, after a look at what a step at ``size`` does.

    Raises:
        InvalidArgument: where ``train_step`` updates by itself, with no optimizer of this study;
            where gradients are sparse and the optimizer that was assumed takes none such.
    """
    fresh = recipe.build(0)
    step, loader = fresh.step, fresh.loader(size)
    dataset = getattr(loader, "dataset", None)
    found = Facts(
        rate=step.base_learning_rate(),
        family=step.optimizer_family,
        samples=len(dataset) if isinstance(dataset, Sized) else None,
        has_scheduler=fresh.training.scheduler is not None,
    )
    step.look(moved(next(_endless(loader)), step.device))
    if step.updates_itself:
        raise InvalidArgument(
            "compare_batch_sizes: expected a train_step that returns the loss of (model, batch) "
            "and leaves backward and update to the study; found one that runs them itself: return "
            "the loss before backward, and build Training(model, optimizer=...) in make_training"
        )
    return found
