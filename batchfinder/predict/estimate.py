"""The questions about memory that need no device: how much at this size, and which size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Never

import torch

from batchfinder.arguments import check
from batchfinder.devices import DEVICES, find_device
from batchfinder.errors import InvalidArgument
from batchfinder.keywords import keywords_named, refuse_unknown
from batchfinder.predict.allowances import Target, predictions, unseen_by
from batchfinder.predict.answers import (
    Allowance,
    DevicePredictions,
    MemoryEstimate,
    MemoryPrediction,
)
from batchfinder.predict.rehearsal import Footprint, Rehearsal, rehearsing
from batchfinder.run.batches import source_from
from batchfinder.run.state import GeneratorState, RandomState, generators_of
from batchfinder.run.step import step_of
from batchfinder.run.switches import gradients_on
from batchfinder.training import (
    Autocast,
    Clip,
    GradScaler,
    Loader,
    LossFunction,
    Model,
    Optimizer,
    Scheduler,
    StepFunction,
    Training,
    training_of,
)
from batchfinder.units import format_bytes, parse_bytes


@keywords_named
def estimate_memory(
    model: Model | Training,
    loader: Loader | None = None,
    batch_size: int | None = None,
    *,
    device: str | torch.device | None = None,
    loss_fn: LossFunction | None = None,
    train_step: StepFunction | None = None,
    optimizer: Optimizer | None = None,
    scheduler: Scheduler | None = None,
    clip: Clip | None = None,
    autocast: Autocast | None = None,
    grad_scaler: GradScaler | None = None,
    **unknown: Never,
) -> MemoryEstimate:
    """Predict the memory of one training step of ``batch_size`` samples, including the update.

    The step is traced with fake tensors, which have shapes but no storage. This takes about 0.1 ms
    per operator, regardless of the size.

    What you train:
        As for ``find_batch_size``: ``model``, on any device, and ``loader`` (two small batches are
        taken from it), or a ``Training``; ``loss_fn``, ``train_step``, ``optimizer``,
        ``scheduler``, ``clip``, ``autocast``, ``grad_scaler``. All is afterwards as it was.

    What is asked:
        batch_size: samples per micro-batch, at least 1.
        device: the device to predict for: "cuda", or a name such as "H200". Default: that of the
            model.

    Raises:
        InvalidArgument: if the size is below 1 or the device is unknown.
        CannotPredict: if the step needs real data; the message names the cause.
    """
    refuse_unknown(estimate_memory, unknown)
    if batch_size is None:
        raise InvalidArgument("estimate_memory: expected batch_size=; found none")
    check("estimate_memory", batch_size=batch_size)
    target = _place(device)
    training = training_of(
        model,
        loader,
        loss_fn=loss_fn,
        train_step=train_step,
        optimizer=optimizer,
        scheduler=scheduler,
        clip=clip,
        autocast=autocast,
        grad_scaler=grad_scaler,
    )
    with _stage(training, target.kind) as (rehearsal, _):
        found = rehearsal.at(batch_size)
        where = target.name or str(rehearsal.step.device)
        on_gpu = target.kind is not None and target.kind.type != "cpu"
        return _estimate(found, rehearsal, where, unseen_by(found, is_gpu=on_gpu))


@keywords_named
def predict_max_batch_size(
    model: Model | Training,
    loader: Loader | None = None,
    *,
    memory: int | str | None = None,
    device: str | None = None,
    loss_fn: LossFunction | None = None,
    train_step: StepFunction | None = None,
    optimizer: Optimizer | None = None,
    scheduler: Scheduler | None = None,
    clip: Clip | None = None,
    autocast: Autocast | None = None,
    grad_scaler: GradScaler | None = None,
    **unknown: Never,
) -> MemoryPrediction:
    """Predict the largest micro-batch that fits on a device that is not present.

    Only memory is predicted, not speed.

    What you train:
        As for ``find_batch_size``: ``model``, on any device, and ``loader`` (two small batches are
        taken from it), or a ``Training``; ``loss_fn``, ``train_step``, ``optimizer``,
        ``scheduler``, ``clip``, ``autocast``, ``grad_scaler``. All is afterwards as it was.

    What is asked:
        memory: the device's total memory: bytes, ``"141GB"`` or ``"80GiB"``.
        device: instead of ``memory``, a name such as ``"H200"`` (``batchfinder.devices``); or
            ``"cpu"`` with ``memory``, for a CPU with that much free memory.

    Raises:
        InvalidArgument: unless exactly one of ``memory`` and a known ``device`` is given;
            ``device="cpu"`` requires ``memory`` too.
        CannotPredict: if the step needs real data, or if the size of part of its memory is unknown
            before it runs (recurrent layers); the message names the cause.
    """
    refuse_unknown(predict_max_batch_size, unknown)
    target = _one_target(memory, device)
    training = training_of(
        model,
        loader,
        loss_fn=loss_fn,
        train_step=train_step,
        optimizer=optimizer,
        scheduler=scheduler,
        clip=clip,
        autocast=autocast,
        grad_scaler=grad_scaler,
    )
    kind = torch.device("cuda" if target.is_gpu else "cpu")
    with _stage(training, kind) as (rehearsal, samples):
        return predictions(rehearsal, [target], samples)[0]


@keywords_named
def predict_for_devices(
    model: Model | Training,
    loader: Loader | None = None,
    *,
    devices: Iterable[str] | None = None,
    loss_fn: LossFunction | None = None,
    train_step: StepFunction | None = None,
    optimizer: Optimizer | None = None,
    scheduler: Scheduler | None = None,
    clip: Clip | None = None,
    autocast: Autocast | None = None,
    grad_scaler: GradScaler | None = None,
    **unknown: Never,
) -> DevicePredictions:
    """Predict the largest micro-batch for several devices from one trace of the step.

    What you train:
        As for ``predict_max_batch_size``: ``model`` and ``loader``, or a ``Training``;
        ``loss_fn``, ``train_step``, ``optimizer``, ``scheduler``, ``clip``, ``autocast``,
        ``grad_scaler``.

    What is asked:
        devices: names from ``batchfinder.devices``. Default: every device of that table.

    Raises:
        InvalidArgument: if a device is not in the table.
        CannotPredict: as for ``predict_max_batch_size``.
    """
    refuse_unknown(predict_for_devices, unknown)
    known = DEVICES if devices is None else [find_device(name) for name in devices]
    targets = [Target(each.name, True, each.memory_bytes) for each in known]
    training = training_of(
        model,
        loader,
        loss_fn=loss_fn,
        train_step=train_step,
        optimizer=optimizer,
        scheduler=scheduler,
        clip=clip,
        autocast=autocast,
        grad_scaler=grad_scaler,
    )
    with _stage(training, torch.device("cuda")) as (rehearsal, samples):
        return DevicePredictions(predictions(rehearsal, targets, samples))


@dataclass(frozen=True)
class _Place:
    """Where an estimate is for; ``kind`` is ``None`` for where the model is."""

    name: str
    kind: torch.device | None


def _place(device: str | torch.device | None) -> _Place:
    if device is None:
        return _Place("", None)
    if isinstance(device, torch.device) or device.split(":")[0] in ("cpu", "cuda", "mps", "xpu"):
        return _Place(str(device), torch.device(device))
    return _Place(find_device(device).name, torch.device("cuda"))


def _one_target(memory: int | str | None, device: str | None) -> Target:
    if memory is not None and device in (None, "cpu"):
        size = parse_bytes(memory)
        name = "a CPU" if device else "a device"
        return Target(f"{name} of {format_bytes(size)}", device is None, size)
    if memory is not None or device is None or device == "cpu":
        raise InvalidArgument(
            'expected one of memory="141GB" and device="H200", or memory= with device="cpu"; '
            f"found memory={memory!r} and device={device!r}"
        )
    found = find_device(device)
    return Target(found.name, True, found.memory_bytes)


@contextmanager
def _stage(training: Training, kind: torch.device | None) -> Iterator[tuple[Rehearsal, int | None]]:
    """The rehearsal, and how many samples the loader can fill a batch with."""
    random, generators = RandomState(), GeneratorState(generators_of(training.loader))
    try:
        with gradients_on():
            source = source_from(
                training.loader,
                make_loader=training.make_loader,
                batch_dim=training.batch_dim,
                count=training.count,
            )
            with closing(source):
                autocast = _autocast_anywhere(training.autocast)
                step = step_of(
                    replace(training, autocast=autocast, scheduler=None),
                    sample_batch=source.take(min(2, source.ceiling or 2)),
                )
                with rehearsing(step, source, as_on=kind) as rehearsal:
                    yield rehearsal, source.ceiling
    finally:
        generators.restore()
        random.restore()


def _autocast_anywhere(autocast: Any) -> Any:
    """A context for a device that is absent would do nothing: its dtype serves instead."""
    absent = isinstance(autocast, torch.autocast) and autocast.device == "cuda"
    return autocast.fast_dtype if absent and not torch.cuda.is_available() else autocast


def _estimate(
    found: Footprint, rehearsal: Rehearsal, where: str, unseen: tuple[Allowance, ...]
) -> MemoryEstimate:
    return MemoryEstimate(
        batch_size=found.batch_size,
        device=where,
        peak_bytes=found.peak_bytes,
        parameter_bytes=found.parameter_bytes,
        buffer_bytes=found.buffer_bytes,
        gradient_bytes=found.gradient_bytes,
        optimizer_bytes=found.optimizer_bytes,
        batch_bytes=found.batch_bytes,
        unseen=unseen,
        assumed=(*found.assumed, *rehearsal.kernel_notes),
    )
