"""A ``TrainingMonitor`` as a callback of Transformers' ``Trainer``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainerCallback

from batchfinder.integrations.shared import rows_of
from batchfinder.monitor import AllGather, TrainingMonitor

__all__ = ["MonitorCallback"]


class MonitorCallback(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """Watches a ``train()`` with a ``TrainingMonitor``: ``Trainer(callbacks=[MonitorCallback()])``.

    The micro-batches are those of ``gradient_accumulation_steps`` and of the ranks of data-parallel
    training: at one of each there is no noise scale, since the trainer's step cannot be cut in two;
    instability is watched all the same. The loss is
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
        self._rows = 0
        self._is_share = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin with the optimizer that ``train()`` has prepared."""
        self.on_train_end(args, state, control)  # of a run that an exception ended
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        options = {
            "batch_size": args.train_batch_size,
            "grad_scaler": getattr(optimizer, "scaler", None),  # an AcceleratedOptimizer keeps it
            "ranks": AllGather() if _is_data_parallel(args) else None,
            **self._options,
        }
        self._losses, self._rows = [], 0
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
        if self.monitor is None:
            return
        loss = None
        if losses:  # shares of the step where each was divided by the step's tokens
            together = torch.stack(losses)
            loss = together.sum() if self._is_share else together.mean()
        self.monitor.step(loss)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave no hook behind."""
        if self.monitor is not None:
            self.monitor.close()
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _took(self, args: Any) -> None:
        if self.monitor is not None:
            # Each of several GPUs of one process sees its part; pairs may count as two rows.
            seen = self._rows * max(1, args.n_gpu)
            self.monitor.took(min(seen or args.train_batch_size, args.train_batch_size))
        self._rows = 0

    def _see(self, model: torch.nn.Module, at: Any, given: dict[str, Any], output: Any) -> None:
        self._is_share = given.get("num_items_in_batch") is not None
        loss = output.get("loss") if isinstance(output, Mapping) else None
        if not model.training:
            return
        rows = rows_of((at, given))
        # Samples laid end to end in one row bring their positions; how many they are is unknown.
        if rows > 1 or "position_ids" not in given:
            self._rows = max(self._rows, rows)
        if isinstance(loss, torch.Tensor):
            self._losses.append(loss.detach().float().mean())


def _is_data_parallel(args: Any) -> bool:
    """Whether every rank holds the whole model; the callback is handed the unwrapped one."""
    sharded = getattr(args, "fsdp", None) or getattr(args, "deepspeed", None)
    return getattr(args, "world_size", 1) > 1 and not sharded
