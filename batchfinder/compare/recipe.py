"""How the user trains: model, loader, loss, validation; and what one size takes of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from batchfinder.errors import InvalidArgument
from batchfinder.protocols import Batch, MemoryBackend, Setup
from batchfinder.results import Outcome
from batchfinder.run.memory import backend_for
from batchfinder.run.step import Step, moved, step_from
from batchfinder.run.step.call import call_for
from batchfinder.run.step.loss import LossInference, own_loss
from batchfinder.run.step.precision import context_for
from batchfinder.run.trial import run_trial, tensors_in

__all__ = ["Loss", "Recipe", "endless", "peak_of", "rate_and_family", "samples_in"]


class Loss:
    """The loss of a batch, with or without gradient: the user's function, or the model's."""

    def __init__(self, loss_fn: Any, train_step: Any) -> None:
        self._loss_fn, self._train_step = loss_fn, train_step
        self._inference = LossInference()

    def __call__(self, model: Any, batch: Batch) -> Any:
        if self._train_step is not None:
            return self._train_step(model, batch)
        call = call_for(model, batch, keep_target=self._loss_fn is not None)
        output = call(model)
        if self._loss_fn is not None:
            return self._loss_fn(output, call.target)
        found = own_loss(output)
        return found[0] if found else self._inference(output, call.target)


@dataclass(frozen=True)
class Recipe:
    """How the user trains: everything but size, rate and seed."""

    make_model: Callable[[], torch.nn.Module]
    make_loader: Callable[[int], Iterable[Batch]]
    make_optimizer: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]
    loss: Loss
    validation: Iterable[Batch] | None = None
    metric: Callable[[Any, Batch], Any] | None = None
    autocast: Any = None
    make_grad_scaler: Callable[[], Any] | None = None
    memory_limit: int | str | None = None

    def build(self, seed: int) -> tuple[torch.nn.Module, Step]:
        """A model and its step, the same for the same seed."""
        torch.manual_seed(seed)
        model = self.make_model()
        model.train()
        step = step_from(
            model,
            train_step=self.loss,
            optimizer=self.make_optimizer([p for p in model.parameters() if p.requires_grad]),
            autocast=self.autocast,
            grad_scaler=None if self.make_grad_scaler is None else self.make_grad_scaler(),
        )
        return model, step

    def look(self, model: torch.nn.Module, step: Step) -> tuple[float | None, float | None]:
        """Validation loss and metric, means over samples; ``None`` for what was not asked."""
        if self.validation is None:
            return None, None
        losses, metrics, weights = [], [], []
        for here in self._evaluated(model, step, self.validation):
            losses.append(float(self.loss(model, here)))
            if self.metric is not None:
                metrics.append(float(self.metric(model, here)))
            weights.append(samples_in(here))
        return _mean(losses, weights), _mean(metrics, weights)

    def metric_on(
        self, model: torch.nn.Module, step: Step, batches: Iterable[Batch]
    ) -> float | None:
        """The metric's mean over ``batches``; ``None`` without one."""
        if self.metric is None:
            return None
        found, weights = [], []
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


def _mean(values: list[float], weights: list[int]) -> float | None:
    if not values:
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

    def count(self, batch: Batch) -> int:
        return samples_in(batch)

    def rebuild(self, size: int) -> Iterable[Batch]:
        return [self._batch]

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


def rate_and_family(recipe: Recipe) -> tuple[float | None, str]:
    """The rate and the family of the optimizer that ``make_optimizer`` builds."""
    _, step = recipe.build(0)
    return step.learning_rate(), step.optimizer_family
