"""A ``TrainingMonitor`` as a callback of Transformers' ``Trainer``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainerCallback

from batchfinder.monitor import TrainingMonitor

__all__ = ["MonitorCallback"]


class MonitorCallback(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """Watches a ``train()`` with a ``TrainingMonitor``: ``Trainer(callbacks=[MonitorCallback()])``.

    The micro-batches are those of ``gradient_accumulation_steps``: at 1 there is no noise scale,
    since the trainer's step cannot be cut in two; instability is watched all the same. The loss is
    the one that the model returns in its output, averaged over the step's micro-batches; where it
    returns none, only gradients and updates are watched.

    Args:
        **options: keyword arguments of ``TrainingMonitor`` (``every``, ``observe``, ``window``,
            ``dataset_size``, ``candidates``).

    Attributes:
        monitor: the monitor of the last ``train()``; ``None`` before it.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self.monitor: TrainingMonitor | None = None
        self._losses: list[torch.Tensor] = []
        self._hook: Any = None
        self._is_share = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin with the optimizer that ``train()`` has prepared."""
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        options = {"batch_size": args.train_batch_size, **self._options}
        self._losses = []
        self.monitor = TrainingMonitor(model, getattr(optimizer, "optimizer", optimizer), **options)
        self._hook = model.register_forward_hook(self._see, with_kwargs=True)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One micro-batch of an accumulated step is over."""
        self._took(args)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The last micro-batch of a step is over."""
        self._took(args)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One optimizer step is over."""
        losses, self._losses = self._losses, []
        if self.monitor is not None:
            self.monitor.step(self._of_step(losses) if losses else None)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave no hook behind."""
        if self.monitor is not None:
            self.monitor.close()
        if self._hook is not None:
            self._hook.remove()

    def _took(self, args: Any) -> None:
        if self.monitor is not None:
            self.monitor.took(args.train_batch_size)

    def _of_step(self, losses: list[torch.Tensor]) -> torch.Tensor:
        """The mean over the step: shares of it where a loss is divided by the step's tokens."""
        together = torch.stack(losses)
        return together.sum() if self._is_share else together.mean()

    def _see(self, model: torch.nn.Module, _: Any, given: dict[str, Any], output: Any) -> None:
        self._is_share = given.get("num_items_in_batch") is not None
        loss = output.get("loss") if isinstance(output, Mapping) else None
        if model.training and isinstance(loss, torch.Tensor):
            self._losses.append(loss.detach().float().mean())
