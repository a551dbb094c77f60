"""A report set on Lightning's objects, before ``fit`` or inside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from batchfinder.errors import InvalidArgument
from batchfinder.integrations.shared import Applied
from batchfinder.report import Report

__all__ = ["Names", "apply_before_fit", "apply_inside_fit", "holders_of", "set_on", "value_on"]


@dataclass(frozen=True)
class Names:
    """What the attributes are called that hold the batch size and the learning rate."""

    batch_size: tuple[str, ...] = ("batch_size",)
    rate: tuple[str, ...] = ("lr", "learning_rate")


def apply_before_fit(
    report: Report,
    trainer: Any,
    module: Any,
    datamodule: Any,
    names: Names,
) -> tuple[Applied, ...]:
    """Set the attributes that the next ``fit`` builds its loader and optimizers from."""
    return (
        *_apply_size(report, trainer, module, datamodule, names.batch_size),
        *_apply_rate(report, trainer, module, datamodule, names.rate),
    )


def apply_inside_fit(
    report: Report,
    trainer: Any,
    module: Any,
    names: Names,
) -> tuple[Applied, ...]:
    """Set the attributes, and build loader, optimizers and schedules anew from them.

    A run in its middle keeps its optimizers; their rates and schedules are multiplied in place.

    Raises:
        InvalidArgument: where there is no attribute for the batch size.
    """
    size = _apply_size(report, trainer, module, trainer.datamodule, names.batch_size)
    missing = next((each for each in size if not each.done), None)
    if missing is not None:
        raise InvalidArgument(
            f"expected an attribute {' or '.join(names.batch_size)} on the module, its hparams or "
            "the datamodule, from which the loader is built; found none: add it, pass "
            "batch_arg_name=, or call find_batch_size(trainer, model, ...) before fit and "
            "report.make_loader(loader)"
        )
    trainer.fit_loop._combined_loader = None
    running = trainer.fit_loop.epoch_loop.global_step > 0 or trainer.ckpt_path is not None
    factor = report.rate_factor
    rate: tuple[Applied, ...] = ()
    if factor is not None:
        rate = _apply_rate(report, trainer, module, trainer.datamodule, names.rate)
    rebuilt = not running and rate and all(each.done for each in rate)
    if not running:  # a schedule's length is counted in steps of the new loader
        trainer.strategy.setup_optimizers(trainer)
        _optimizers_to_device(trainer)
    if factor is not None and not rebuilt:
        schedulers = [each.scheduler for each in trainer.strategy.lr_scheduler_configs]
        report.apply_rate(trainer.optimizers, schedulers)
        rate = (*(each for each in rate if each.done), Applied("optimizer rates", 1.0, factor))
    if running:
        trainer.fit_loop.setup_data()
    return (*size, *rate)


def _optimizers_to_device(trainer: Any) -> None:
    device = trainer.strategy.root_device
    for optimizer in trainer.optimizers:
        for state in optimizer.state.values():
            for name, value in state.items():
                if isinstance(value, torch.Tensor) and value.dim():
                    state[name] = value.to(device)


def _apply_size(
    report: Report, trainer: Any, module: Any, datamodule: Any, names: Sequence[str]
) -> list[Applied]:
    applied = _assigned(trainer, module, datamodule, names, lambda _: report.batch_size)
    if not applied:
        line = "train_dataloaders=report.make_loader(loader)"
        applied = [Applied(line, None, report.batch_size, done=False)]
    steps = trainer.accumulate_grad_batches
    scheduled = any(
        type(callback).__name__ == "GradientAccumulationScheduler" for callback in trainer.callbacks
    )
    if scheduled and steps != report.accumulation_steps:
        raise InvalidArgument(
            "expected accumulate_grad_batches to be a number; found a "
            "GradientAccumulationScheduler: leave that callback out of the search"
        )
    trainer.accumulate_grad_batches = report.accumulation_steps
    applied.append(Applied("trainer.accumulate_grad_batches", steps, report.accumulation_steps))
    return applied


def _apply_rate(
    report: Report, trainer: Any, module: Any, datamodule: Any, names: Sequence[str]
) -> tuple[Applied, ...]:
    factor = report.rate_factor
    if factor is None:
        return ()
    for name in names:
        applied = _assigned(trainer, module, datamodule, (name,), lambda old: old * factor)
        if applied:
            return tuple(applied)
    line = "in configure_optimizers: multiply every learning rate"
    return (Applied(line, 1.0, factor, done=False),)


def _assigned(
    trainer: Any,
    module: Any,
    datamodule: Any,
    names: Sequence[str],
    new: Callable[[Any], Any],
) -> list[Applied]:
    for name in names:
        holders = holders_of(trainer, module, datamodule, name)
        applied = []
        for holder in holders:
            old = value_on(holder, name)
            if isinstance(old, int | float) and not isinstance(old, bool):
                set_on(holder, name, new(old))
                applied.append(Applied(f"{type(holder).__name__}.{name}", old, new(old)))
        if applied:
            return applied
    return []


def holders_of(trainer: Any, module: Any, datamodule: Any, name: str) -> list[Any]:
    """Where Lightning looks for an attribute: module, datamodule, and the ``hparams`` of both."""
    owners = [each for each in (module, datamodule or trainer.datamodule) if each is not None]
    holders = []
    for owner in owners:
        if hasattr(owner, name):
            holders.append(owner)
        hparams = getattr(owner, "hparams", None)
        if hparams is not None and name in hparams:
            holders.append(hparams)
    return holders


def value_on(holder: Any, name: str) -> Any:
    return holder[name] if isinstance(holder, dict) else getattr(holder, name)


def set_on(holder: Any, name: str, value: Any) -> None:
    if isinstance(holder, dict):
        holder[name] = value
    else:
        setattr(holder, name, value)
