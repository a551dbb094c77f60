"""What Lightning and Accelerate find, for ``gpu.py``: the same training, the same allocator cap."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import torch
from gpu_trainings import Case, Training
from torch.utils.data import DataLoader

STEPS = 3
TRIALS = 25


def lightning(mode: str, case: Case, device: torch.device) -> dict[str, Any]:
    """``Tuner.scale_batch_size`` with ``mode`` "power" or "binsearch"."""
    import lightning.pytorch as pl
    from lightning.pytorch.tuner import Tuner

    training = Training(case, device)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.batch_size = training.model, 2

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return training.loss(self.net, batch)

        def configure_optimizers(self) -> Any:
            return training.optimizer

        def train_dataloader(self) -> Any:
            return DataLoader(training.data, batch_size=self.batch_size, num_workers=0)

    module = Module()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=folder,
        )
        Tuner(trainer).scale_batch_size(
            module,
            mode=mode,
            steps_per_trial=STEPS,
            max_trials=TRIALS if device.type == "cuda" else 8,
        )
    return {"found": module.batch_size, "seconds": round(time.perf_counter() - started, 1)}


def accelerate(case: Case, device: torch.device) -> dict[str, Any]:
    """``find_executable_batch_size``, from 1024 down."""
    from accelerate.utils import find_executable_batch_size

    training = Training(case, device)
    started = time.perf_counter()

    @find_executable_batch_size(starting_batch_size=1024 if device.type == "cuda" else 64)
    def train(batch_size: int) -> int:
        for _ in range(STEPS):
            training.step(training.batch(batch_size))
        return batch_size

    return {"found": train(), "seconds": round(time.perf_counter() - started, 1)}
