"""A ``TrainingMonitor`` as a Lightning callback."""

from __future__ import annotations

from typing import Any

import torch

from batchfinder.integrations.lightning_trainer import callbacks
from batchfinder.integrations.shared import rows_of
from batchfinder.monitor import TrainingMonitor

__all__ = ["MonitorCallback"]

_CALLBACKS = callbacks()


class MonitorCallback(*_CALLBACKS):  # type: ignore[misc]  # of every package that is installed
    """Watches a ``fit`` with a ``TrainingMonitor``, and logs its readings.

    The micro-batches are those of ``accumulate_grad_batches`` and of the devices: at one of each
    there is no noise scale, since Lightning's step cannot be cut in two; instability is watched
    all the same. The training is bit for bit what it is without. Readings go to the trainer's
    loggers as ``batchfinder/noise_scale``, ``batchfinder/gradient_norm``, … : what
    ``Reading.scalars`` names.

    Args:
        **options: keyword arguments of ``TrainingMonitor`` (``every``, ``observe``, ``window``,
            ``dataset_size``, ``candidates``).

    Attributes:
        monitor: the monitor of the last ``fit``; ``None`` before it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._options = options
        self.monitor: TrainingMonitor | None = None
        self._losses: list[torch.Tensor] = []
        self._steps = self._samples = self._logged = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin with the optimizers as they are now."""
        self.on_train_end(trainer, pl_module)  # of a run that an exception ended
        options = {
            "batch_size": 1,  # each batch is counted
            "grad_scaler": getattr(trainer.precision_plugin, "scaler", None),
            **self._options,
        }
        # The wrapper knows that there are ranks; the module inside of it does not.
        wrapped = isinstance(trainer.model, torch.nn.parallel.DistributedDataParallel)
        model = trainer.model if wrapped else pl_module
        self.monitor = TrainingMonitor(model, trainer.optimizers, **options)
        self._steps, self._logged, self._losses = trainer.global_step, 0, []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        """Remember how many samples the coming backward pass is over."""
        self._samples = rows_of(batch)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """One micro-batch is over."""
        if self.monitor is not None:
            self.monitor.took(self._samples)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        """One optimizer step is over, if the trainer counts it."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, torch.Tensor):
            self._losses.append(loss.detach())
        if self.monitor is None or trainer.global_step == self._steps:
            return
        self._steps = trainer.global_step
        # Lightning divides each loss by the number of its accumulation group.
        losses, self._losses = self._losses, []
        self.monitor.step(sum(losses) if losses else None)
        self._log(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave no hook behind."""
        if self.monitor is not None:
            self.monitor.close()

    def _log(self, trainer: Any) -> None:
        last = None if self.monitor is None else self.monitor.last_reading
        if last is None or last.step == self._logged:
            return
        self._logged = last.step
        named = {f"batchfinder/{name}": value for name, value in last.scalars().items()}
        for logger in trainer.loggers:
            logger.log_metrics(named, step=trainer.global_step)
