"""Every finder, driven as its own documentation says. Each returns the size that it would set.

A finder that is not installed, or cannot take the case, raises ``CannotRun``.
"""

from __future__ import annotations

import gc
import importlib.metadata
import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import torch
from head_to_head_device import Device, Training

from batchfinder.training import Search

STEPS = 2
"""Steps that a finder which is the training itself is given at the size that it settles on."""


class CannotRun(Exception):
    """Not installed here, or not able to take this model."""


def batchfinder_default(training: Training, device: Device) -> int:
    return _batchfinder(training, device, 0.02)


def batchfinder_exact(training: Training, device: Device) -> int:
    return _batchfinder(training, device, 0.0)


def _batchfinder(training: Training, device: Device, resolution: float) -> int:
    from batchfinder import max_batch_size

    found = max_batch_size(
        training.model,
        training.loader,
        optimizer=training.optimizer,
        memory_limit=device.limit,
        search=Search(resolution=resolution),
        **training.case.options,
    )
    device.failures = sum(not trial.fits for trial in found.trials)
    return found.max_batch_size


def lightning_power(training: Training, device: Device) -> int:
    return _lightning(training, device, "power")


def lightning_binsearch(training: Training, device: Device) -> int:
    return _lightning(training, device, "binsearch")


def _lightning(training: Training, device: Device, mode: str) -> int:
    try:
        import lightning.pytorch as pl
        from lightning.pytorch.tuner import Tuner
    except ImportError as error:
        raise CannotRun("not installed") from error
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = training.model
            self.batch_size = 2

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            with training.step._context():
                loss, _ = training.step._compute(batch)
                return loss

        def configure_optimizers(self) -> Any:
            return training.optimizer

        def train_dataloader(self) -> Any:
            return training.loader_at(self.batch_size)

    module = Module()
    with tempfile.TemporaryDirectory() as folder, device:
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=folder,
        )
        Tuner(trainer).scale_batch_size(module, mode=mode)
    return module.batch_size


def accelerate(training: Training, device: Device) -> int:
    try:
        from accelerate.utils import find_executable_batch_size
    except ImportError as error:
        raise CannotRun("not installed") from error

    @find_executable_batch_size(starting_batch_size=128)
    def train(batch_size: int) -> int:
        return _train(training, batch_size)

    with device:
        return train()


def transformers(training: Training, device: Device) -> int:
    try:
        from transformers import Trainer, TrainingArguments
    except ImportError as error:
        raise CannotRun("not installed") from error

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = training.model

        def forward(self, **batch: Any) -> dict[str, torch.Tensor]:
            values = batch if "input_ids" in batch else tuple(batch.values())
            with training.step._context():
                loss, _ = training.step._compute(values)
                return {"loss": loss}

    rows = training.loader_at(1).dataset

    def collate(items: list[Any]) -> dict[str, Any]:
        batch = rows.together(items)
        return batch if isinstance(batch, dict) else {"x": batch[0], "labels": batch[1]}

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            Wrapped(),
            TrainingArguments(
                folder,
                auto_find_batch_size=True,
                per_device_train_batch_size=128,
                max_steps=STEPS,
                report_to=[],
                save_strategy="no",
                use_cpu=True,
                disable_tqdm=True,
                remove_unused_columns=False,
                dataloader_pin_memory=False,
                logging_strategy="no",
            ),
            train_dataset=rows,
            data_collator=collate,
            optimizers=(training.optimizer, None),
        )
        with device:
            trainer.train()
        return trainer._train_batch_size


def torch_max_mem(training: Training, device: Device) -> int:
    try:
        from torch_max_mem import maximize_memory_utilization
    except ImportError as error:
        raise CannotRun("not installed") from error

    @maximize_memory_utilization(safe_devices={"cpu"})
    def train(*, batch_size: int = 128) -> int:
        return _train(training, batch_size)

    with device:
        return train()


def toma(training: Training, device: Device) -> int:
    try:
        from toma import toma as _toma
    except ImportError as error:
        raise CannotRun("not installed") from error

    @_toma.batch(initial_batchsize=128)
    def train(batchsize: int) -> int:
        return _train(training, batchsize)

    with device:
        return train()


def batch_finder(training: Training, device: Device) -> int:
    try:
        from batch_finder import find_max_minibatch
    except ImportError as error:
        raise CannotRun("not installed") from error
    sample = training.source.take(2)
    if not isinstance(sample, tuple | list) or not sample[0].is_floating_point():
        raise CannotRun("takes floating inputs of a fixed shape only")
    with device:
        found = find_max_minibatch(
            lambda: training.model,
            input_shapes=(-1, *sample[0].shape[1:]),
            device=torch.device("cpu"),
            delay=0.0,
            use_subprocess=False,
        )
    return found if isinstance(found, int) else (found or (0,))[0]


def _train(training: Training, size: int) -> int:
    """A user's training function, as these finders call it."""
    batches = iter(training.loader_at(size))
    for _ in range(STEPS):
        training.one_step(next(batches))
    return size


FINDERS: dict[str, tuple[str, Callable[[Training, Device], int]]] = {
    "batchfinder": ("torch-batchfinder", batchfinder_default),
    "batchfinder, resolution=0": ("torch-batchfinder", batchfinder_exact),
    "Lightning, power": ("lightning", lightning_power),
    "Lightning, binsearch": ("lightning", lightning_binsearch),
    "Accelerate": ("accelerate", accelerate),
    "Transformers": ("transformers", transformers),
    "torch-max-mem": ("torch-max-mem", torch_max_mem),
    "toma": ("toma", toma),
    "batch-finder": ("batch-finder", batch_finder),
}


def version_of(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def quiet() -> None:
    """Finders' own logs and warnings, out of the table."""
    os.environ["BATCHFINDER_QUIET"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    warnings.simplefilter("ignore")
    gc.collect()
