"""The two questions about memory that need no device: how much at this size, and which size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from batchfinder.devices import find_device
from batchfinder.errors import CannotPredict, InvalidArgument
from batchfinder.predict.answers import MOST, Allowance, MemoryEstimate, MemoryPrediction
from batchfinder.predict.rehearsal import Footprint, Rehearsal, rehearsing
from batchfinder.predict.root import largest_within
from batchfinder.run.batches import source_from
from batchfinder.run.state.randomness import GeneratorState, RandomState, generators_of
from batchfinder.run.step import step_from
from batchfinder.units import format_bytes, parse_bytes

PEAK_ERROR = 0.05
"""An allowance for the error of a predicted peak, relatively; it is not a measured error.

Measured on the CPU against the ledger, on eight models: at most 0.011%
(tests/benchmarks/prediction.py). On a GPU nothing was measured.
"""

CONTEXT_BYTES = 2**30
"""A CUDA context and the libraries' own memory: 0.4 to 1 GiB on cards of today; not predicted."""

WORKSPACE_BYTES = 64 * 2**20
"""cuBLAS takes 8.1 MiB per stream, cuBLASLt 32 MiB on Hopper (pytorch issue 120925)."""

FRAGMENTATION = 0.1
"""Of the peak. Replayed by the caching allocator's rules, reserved memory was 2 to 26% above."""

OTHER_KERNELS = "the GPU takes the kernels that the CPU takes, of attention above all"


def estimate_memory(
    model: Any,
    loader: Any,
    batch_size: int,
    *,
    device: str | torch.device | None = None,
    loss_fn: Callable[..., Any] | None = None,
    train_step: Callable[..., Any] | None = None,
    optimizer: Any = None,
    autocast: Any = None,
    grad_scaler: Any = None,
    make_loader: Callable[[int], Any] | None = None,
) -> MemoryEstimate:
    """The memory of one training step of ``batch_size`` samples, update included; nothing runs.

    The step runs on fake tensors, which have shapes and no bytes. It takes about a tenth of a
    millisecond per operator, whatever the size.

    Args:
        model: the model, on any device; it is as it was afterwards.
        loader: the training loader; two small batches are taken from it.
        batch_size: samples per micro-batch, at least 1.
        device: where it would run: "cuda", or a name such as "H200". Left out: where the model is.
        loss_fn: as for ``find_batch_size``, as are all that follow.
        train_step: see there.
        optimizer: see there.
        autocast: see there.
        grad_scaler: see there.
        make_loader: see there.

    Raises:
        InvalidArgument: where the size is below 1 or the device is unknown.
        CannotPredict: where the step needs real data; the message says what does.
    """
    if batch_size < 1:
        raise InvalidArgument(
            f"expected a batch size of at least 1; found {batch_size}: pass the number of samples"
        )
    target = _target(device)
    handed = _Handed(model, loader, loss_fn, train_step, optimizer, autocast, grad_scaler)
    with _stage(handed, make_loader, target.kind) as (rehearsal, _):
        found = rehearsal.at(batch_size)
        where = target.name or str(rehearsal.step.device)
        away = target.kind is not None and target.kind.type != rehearsal.step.device.type
        if away:
            found = replace(found, assumed=(*found.assumed, OTHER_KERNELS))
        return _estimate(found, where, _allowances(found.peak_bytes, target.kind))


def predict_max_batch_size(
    model: Any,
    loader: Any,
    *,
    memory: int | str | None = None,
    device: str | None = None,
    loss_fn: Callable[..., Any] | None = None,
    train_step: Callable[..., Any] | None = None,
    optimizer: Any = None,
    autocast: Any = None,
    grad_scaler: Any = None,
    make_loader: Callable[[int], Any] | None = None,
) -> MemoryPrediction:
    """The largest micro-batch that should fit on a GPU that is not there. Memory only.

    How fast it would be there is not guessed.

    Args:
        model: the model, on any device; it is as it was afterwards.
        loader: the training loader; two small batches are taken from it.
        memory: the device's total memory: bytes, ``"141GB"`` or ``"80GiB"``.
        device: in its place, a name such as ``"H200"`` (``batchfinder.devices``).
        loss_fn: as for ``find_batch_size``, as are all that follow.
        train_step: see there.
        optimizer: see there.
        autocast: see there.
        grad_scaler: see there.
        make_loader: see there.

    Raises:
        InvalidArgument: unless exactly one of ``memory`` and a known ``device`` is given.
        CannotPredict: where the step needs real data; the message says what does.
    """
    if (memory is None) == (device is None):
        raise InvalidArgument(
            'expected one of memory="141GB" and device="H200"; found both or none'
        )
    if memory is None:
        target = _target(device)
    else:
        size = parse_bytes(memory)
        target = _Target(f"a device of {format_bytes(size)}", torch.device("cuda"), size)
    if not target.memory_bytes:
        raise InvalidArgument(f"expected a device of the table by name; found {device!r}")
    handed = _Handed(model, loader, loss_fn, train_step, optimizer, autocast, grad_scaler)
    with _stage(handed, make_loader, target.kind) as (rehearsal, dataset):
        return replace(_predict(rehearsal, target), dataset_samples=dataset)


@dataclass(frozen=True)
class _Handed:
    model: Any
    loader: Any
    loss_fn: Any
    train_step: Any
    optimizer: Any
    autocast: Any
    grad_scaler: Any


@dataclass(frozen=True)
class _Target:
    """Where the step would run; ``kind`` is ``None`` for where the model is."""

    name: str
    kind: torch.device | None
    memory_bytes: int = 0


def _target(device: str | torch.device | None) -> _Target:
    if device is None:
        return _Target("", None)
    if isinstance(device, torch.device) or device.split(":")[0] in ("cpu", "cuda", "mps", "xpu"):
        return _Target(str(device), torch.device(device))
    found = find_device(device)
    return _Target(found.name, torch.device("cuda"), found.memory_bytes)


@contextmanager
def _stage(
    handed: _Handed, make_loader: Callable[[int], Any] | None, kind: torch.device | None
) -> Iterator[tuple[Rehearsal, int | None]]:
    """The rehearsal, and how many samples the loader can fill a batch with."""
    random, generators = RandomState(), GeneratorState(generators_of(handed.loader))
    try:
        source = source_from(handed.loader, make_loader=make_loader)
        step = step_from(
            handed.model,
            loss_fn=handed.loss_fn,
            train_step=handed.train_step,
            optimizer=handed.optimizer,
            autocast=_autocast_anywhere(handed.autocast),
            grad_scaler=handed.grad_scaler,
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


def _allowances(peak_bytes: int, kind: torch.device | None) -> tuple[Allowance, ...]:
    if kind is None or kind.type == "cpu":
        return ()
    return (
        Allowance("the device's context and the libraries' own memory", CONTEXT_BYTES),
        Allowance("workspaces of matrix products and convolutions", WORKSPACE_BYTES),
        Allowance("fragmentation", int(FRAGMENTATION * peak_bytes)),
    )


def _estimate(found: Footprint, where: str, unseen: tuple[Allowance, ...]) -> MemoryEstimate:
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
        assumed=found.assumed,
    )


def _smallest(rehearsal: Rehearsal, budget: int) -> Footprint:
    """A small step; of a single sample where more are too many for ``budget``."""
    found = rehearsal.at(rehearsal.shape.small_size)
    if found.peak_bytes > budget:
        with suppress(CannotPredict):  # a batch norm cannot do with one
            return rehearsal.at(1)
    return found


def _predict(rehearsal: Rehearsal, target: _Target) -> MemoryPrediction:
    fixed = CONTEXT_BYTES + WORKSPACE_BYTES
    surely = 1 / (1 + FRAGMENTATION) / (1 + PEAK_ERROR)
    smallest = _smallest(rehearsal, int((target.memory_bytes - fixed) * surely))
    peaks = {smallest.batch_size: smallest.peak_bytes}
    assumed = dict.fromkeys(smallest.assumed)

    def peak_of(size: int) -> int:
        if size not in peaks:
            found = rehearsal.at(size)
            peaks[size] = found.peak_bytes
            assumed.update(dict.fromkeys(found.assumed))
        return peaks[size]

    def within(share: float, set_aside: int) -> int:
        budget = int((target.memory_bytes - set_aside) * share)
        return largest_within(peak_of, budget, (smallest.batch_size, MOST), smallest.at_rest_bytes)

    if rehearsal.step.device.type == "cpu":
        assumed[OTHER_KERNELS] = None
    chosen = within(1 / (1 + FRAGMENTATION), fixed)
    peak = peak_of(chosen) if chosen else smallest.peak_bytes
    return MemoryPrediction(
        batch_size=chosen,
        high=within(1.0, 0),
        low=within(surely, fixed),
        device=target.name,
        memory_bytes=target.memory_bytes,
        allowances=_allowances(peak, target.kind),
        peak_bytes=peak,
        peak_error=PEAK_ERROR,
        assumed=tuple(assumed),
        smallest=smallest.batch_size,
    )
