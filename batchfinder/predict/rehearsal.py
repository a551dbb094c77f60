"""One training step rehearsed on fake tensors.

A ``train_step`` often closes over a gradient scaler or an optimizer. Left real, they would be
given fake state.

The user's own step runs on fake tensors, under the same ledger that keeps simulated limits, so
that forward, backward and update are all followed. No kernel runs.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from batchfinder.errors import CannotPredict
from batchfinder.predict.assumed import Assumed
from batchfinder.predict.device_kernels import OTHER_KERNELS, CudaKernels
from batchfinder.predict.fakes import BatchShape, kept_as_they_are, swapped
from batchfinder.protocols import Batch, BatchSource
from batchfinder.run.memory import Ledger
from batchfinder.run.reachable import reached_from
from batchfinder.run.state import RandomState
from batchfinder.run.torch_internals.objects import switch_off
from batchfinder.run.torch_internals.storages import storage_key
from batchfinder.run.torch_internals.tensors import FakeTensorMode, unlogged
from batchfinder.run.trial import tensors_in


@dataclass(frozen=True)
class Reachable:
    """Modules and optimizers to swap for fakes, scalers to rest, other objects to put back."""

    modules: list[torch.nn.Module]
    optimizers: list[Any]
    scalers: list[Any]
    others: list[Any]


def reachable_from(step: Any) -> Reachable:
    """What ``step`` holds: handed over, or held by the functions that it calls.

    ``others`` are objects of this library: the step, and those that it is made of.
    """
    others: dict[int, Any] = {}
    held: list[Any] = [*step.modules(), *step.optimizers()]
    queue = [step]
    while queue:
        thing = queue.pop()
        if id(thing) in others:
            continue
        if type(thing).__module__.startswith("batchfinder.") and hasattr(thing, "__dict__"):
            others[id(thing)] = thing
            queue.extend(vars(thing).values())
        else:
            held.append(thing)
    reached = reached_from(held)
    optimizers = {id(each): each for each in [*step.optimizers(), *reached.optimizers]}
    return Reachable(
        reached.modules, list(optimizers.values()), reached.scalers, list(others.values())
    )


class OutOfTime(Exception):
    """A rehearsal took too long; says nothing about the step."""


def _no_end() -> None:
    """However long it takes."""


@dataclass(frozen=True)
class Footprint:
    """The memory of one step at one size, in bytes, and what had to be assumed."""

    batch_size: int
    peak_bytes: int
    parameter_bytes: int
    buffer_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    batch_bytes: int
    largest_block_bytes: int
    """The largest tensor that the step makes."""
    assumed: tuple[str, ...]

    @property
    def at_rest_bytes(self) -> int:
        """Parameters, buffers and optimizer state: held without any batch."""
        return self.parameter_bytes + self.buffer_bytes + self.optimizer_bytes


@dataclass(frozen=True)
class Rehearsal:
    """The stage set up: ask it for the footprint at any size."""

    step: Any
    touched: Reachable
    mode: FakeTensorMode
    shape: BatchShape
    in_time: Callable[[], None] = _no_end
    kernels: CudaKernels | None = None

    @property
    def uncertain(self) -> tuple[str, ...]:
        """What is likely but not certain of the device's kernels, as sentences."""
        return tuple(self.kernels.uncertain) if self.kernels else ()

    @property
    def kernel_notes(self) -> tuple[str, ...]:
        """What was assumed of the device's kernels, as sentences; nothing where the model is."""
        return (OTHER_KERNELS, *self.uncertain) if self.kernels else ()

    def at(self, size: int, *, pessimistic: bool = False) -> Footprint:
        """The footprint of one step of ``size`` samples, gradients absent at its start.

        Args:
            size: samples in the batch.
            pessimistic: whether kernels that the device may not have are left out.

        Raises:
            CannotPredict: where the step does something that needs real data.
            OutOfTime: as ``in_time`` does, called before operators that make a tensor.
        """
        self.in_time()
        with self.mode:
            batch = self.shape.at(size)
        held = self._held()
        ledger, assumed = Ledger(self.step.device), Assumed(self.in_time)
        ledger.hold([*held["parameters"], *held["buffers"], *held["optimizer"]])
        before = ledger.current
        ledger.hold(tensors_in(batch))
        batch_bytes = ledger.current - before
        ledger.peak, ledger.largest = ledger.current, 0
        with self._kernels(pessimistic):
            gradients = self._run(batch, ledger, assumed)
        return Footprint(
            batch_size=size,
            peak_bytes=ledger.peak,
            parameter_bytes=_bytes(held["parameters"]),
            buffer_bytes=_bytes(held["buffers"]),
            gradient_bytes=gradients,
            optimizer_bytes=_bytes(self._held()["optimizer"]),
            batch_bytes=batch_bytes,
            largest_block_bytes=ledger.largest,
            assumed=tuple(assumed.sentences),
        )

    @contextmanager
    def _kernels(self, pessimistic: bool) -> Iterator[None]:
        if self.kernels is None:
            yield
            return
        self.kernels.pessimistic = pessimistic
        with self.kernels:
            yield

    def _run(self, batch: Batch, ledger: Ledger, assumed: Assumed) -> int:
        """One step; the bytes of the gradients that it left."""
        try:
            with self.mode, ledger, assumed:
                self.step.forward_backward(batch, 1.0)
                assumed.recording = False  # an optimizer reads its own step count, no more
                self.step.update()
            return _bytes(p.grad for p in self._parameters() if p.grad is not None)
        except Exception as error:
            self.in_time()  # whatever became of its error on the way through the user's step
            first_line = (str(error).splitlines() or [""])[0][:300]
            raise CannotPredict(
                f"the training step cannot be traced without real data: "
                f"{type(error).__name__}: {first_line}"
            ) from error
        finally:
            for parameter in self._parameters():
                parameter.grad = None

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [p for module in self.touched.modules for p in module.parameters()]

    def _held(self) -> dict[str, list[torch.Tensor]]:
        return {
            "parameters": list(self._parameters()),
            "buffers": [b for module in self.touched.modules for b in module.buffers()],
            "optimizer": [
                tensor
                for optimizer in self.touched.optimizers
                for state in optimizer.state.values()
                for tensor in tensors_in(state)
            ],
        }


@contextmanager
def rehearsing(
    step: Any,
    source: BatchSource,
    *,
    as_on: torch.device | None = None,
    in_time: Callable[[], None] = _no_end,
    first_size: int | None = None,
) -> Iterator[Rehearsal]:
    """Set up a rehearsal of ``step`` on batches shaped as those of ``source``.

    Nothing real is changed for good: tensors, optimizer state, gradient scaler and random numbers
    are afterwards what they were.

    Args:
        step: a training step that also lists its ``modules()`` and ``optimizers()``.
        source: where two small real batches come from.
        as_on: a kind of device that is absent, whose known differences are then followed.
        in_time: called before operators; raises ``OutOfTime`` to end the rehearsal.
        first_size: the size at which the optimizer's state is laid out; left out, a small one.

    Raises:
        CannotPredict: where the batches cannot be followed, or the step needs real data.
        OutOfTime: as ``in_time`` does.
    """
    shape = _batch_shape(source)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    randomness = RandomState()
    touched = reachable_from(step)
    try:
        with (
            warnings.catch_warnings(),
            unlogged(),
            kept_as_they_are([*touched.others, *touched.scalers]),
            swapped(mode, touched.modules, touched.optimizers),
        ):
            warnings.simplefilter("ignore")
            kernels = None
            if as_on is not None and as_on.type != "cpu":
                _with_lists_of_tensors(step)
                kernels = CudaKernels()
            for scaler in touched.scalers:
                # it scales in place and decides by values; neither shows in memory
                switch_off(scaler)
            rehearsal = Rehearsal(step, touched, mode, shape, in_time, kernels)
            if not any(optimizer.state for optimizer in step.optimizers()):
                rehearsal.at(first_size or shape.small_size)  # lays out the optimizer's state
            yield rehearsal
    finally:
        randomness.restore()


def _batch_shape(source: BatchSource) -> BatchShape:
    if source.unit != "samples":
        raise CannotPredict(f"expected batches counted in samples; found {source.unit}")
    most = source.ceiling
    if most is not None and most < 2:
        raise CannotPredict(
            "expected a dataset of at least two samples, to compare two batch sizes"
        )
    small, large = (2, 4) if most is None or most >= 4 else (1, 2)
    return BatchShape(source.take(small), source.take(large), small, large)


def _with_lists_of_tensors(step: Any) -> None:
    """On a GPU, optimizers work on lists of tensors unless they are told otherwise."""
    for optimizer in step.optimizers():
        for group in optimizer.param_groups:
            if group.get("foreach", False) is None and not group.get("fused"):
                group["foreach"] = True


def _bytes(tensors: Any) -> int:
    """Bytes of the storages behind ``tensors``, a shared one counted once."""
    storages = {}
    for tensor in tensors:
        with contextlib.suppress(NotImplementedError):  # a sparse gradient has no storage
            storages[storage_key(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()
    return sum(storages.values())
