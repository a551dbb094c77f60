"""One evaluation step: forward without gradients, in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from batchfinder.protocols import Batch, Ranks
from batchfinder.rates import OptimizerFamily
from batchfinder.run.ranks import ALONE
from batchfinder.run.step.build import device_of
from batchfinder.run.step.call import call_for
from batchfinder.run.step.compiled import Compilation
from batchfinder.run.step.precision import context_for
from batchfinder.run.tree import moved
from batchfinder.training import as_list

__all__ = ["EvaluationStep"]


class EvaluationStep:
    """A ``TrainStep`` that trains nothing, so that trials and timing serve evaluation as well.

    Args:
        model: a module; a list or dict of modules needs ``eval_step``.
        eval_step: ``(model, batch) -> anything``; left out, the model is called with the batch.
        autocast: see ``precision.context_for``.
    """

    ranks: Ranks = ALONE
    updates_itself = False
    optimizer_family = OptimizerFamily.UNKNOWN
    weight = 1.0

    def __init__(
        self, model: Any, eval_step: Callable[[Any, Batch], Any] | None = None, autocast: Any = None
    ) -> None:
        self._modules = as_list(model)
        self._model = model
        self._eval_step = eval_step or _Called()
        self._device = device_of(self._modules)
        self._context = context_for(autocast, self._device, None)
        self._compilation = Compilation(self._modules)

    @property
    def device(self) -> torch.device:
        return self._device

    def modules(self) -> list[torch.nn.Module]:
        return list(self._modules)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return []

    def parameters(self) -> list[torch.nn.Parameter]:
        return []

    def holdings(self) -> Iterator[torch.Tensor]:
        for module in self._modules:
            yield from module.parameters()
            yield from module.buffers()
            yield from (p.grad for p in module.parameters() if p.grad is not None)

    def forward_backward(self, batch: Batch, scale: float = 1.0) -> torch.Tensor:
        """Forward only; the output is let go at once."""
        with torch.no_grad(), self._compilation.apart(), self._context():
            self._eval_step(self._model, moved(batch, self._device))
        return torch.zeros(())

    def loss_scale(self) -> float:
        return 1.0

    def update(self) -> None: ...

    def learning_rate(self) -> float | None:
        return None

    def scale_learning_rate(self, factor: float) -> None: ...

    def set_learning_rate(self, rate: float) -> None: ...

    def zero_grad(self) -> None:
        """Gradients are the user's, and stay."""

    @contextmanager
    def evaluation_mode(self) -> Iterator[None]:
        """Every model in evaluation mode, and every module's own mode put back."""
        modes = [(each, each.training) for top in self._modules for each in top.modules()]
        try:
            for top in self._modules:
                top.eval()
            yield
        finally:
            for module, training in modes:
                module.training = training


class _Called:
    """The model called with the batch, its target left out."""

    def __init__(self) -> None:
        self._has_run = False

    def __call__(self, model: torch.nn.Module, batch: Batch) -> Any:
        call = call_for(model, batch, keep_target=True)
        if not self._has_run:
            call.check(model, batch, step="eval_step")
        try:
            output = call(model)
        except Exception as error:
            call.note(error, model, batch, step="eval_step")
            raise
        self._has_run = True
        return output
