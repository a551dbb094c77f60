"""The device that all finders share: a limit kept by the ledger, and what happened under it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor

from batchfinder.run.batches import source_from
from batchfinder.run.memory.ledger import Ledger
from batchfinder.run.state.part import digest
from batchfinder.run.step import step_from


class Device(Ledger):
    """A limit on the CPU that fails as a GPU does: with the words that every finder knows.

    What was asked for in vain takes no memory afterwards, and the limit holds again.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(torch.device("cpu"), limit)
        self.failures = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        try:
            return super().__torch_dispatch__(func, types, args, kwargs)
        except torch.OutOfMemoryError as error:
            said = str(error).partition(". ")[2]
        args, kwargs = (), None  # the error must not keep alive what was asked for in vain
        self.failures += 1
        raise torch.OutOfMemoryError(f"CUDA out of memory. {said}")

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Rows are read on the host; a batch is charged when a model first uses it."""
        before, self.listening = self.listening, False
        try:
            yield
        finally:
            self.listening = before


@dataclass(frozen=True)
class OnHost(torch.utils.data.Dataset):
    """A data set whose rows are read, and put together, without taking the device's memory."""

    rows: Any
    collate: Any
    device: Device

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        with self.device.loading():
            return self.rows[index]

    def together(self, rows: list[Any]) -> Any:
        with self.device.loading():
            return self.collate(rows)


@dataclass
class Watched:
    """Which sizes a model was run at, from its forward passes in training mode."""

    sizes: list[int] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(self.sizes)


@contextmanager
def watching(model: torch.nn.Module) -> Iterator[Watched]:
    seen = Watched()

    def look(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = next(v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor))
        if module.training and not isinstance(first, FakeTensor):
            seen.sizes.append(len(first))

    handle = model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


class Training:
    """The user's own training of one case: a model, an optimizer, and a step."""

    def __init__(self, case: Any, device: Device) -> None:
        self.case, self.device = case, device
        self.model, self.loader, self.optimizer = case.build()
        self.source = source_from(self.loader)
        self.step = step_from(
            self.model, optimizer=self.optimizer, sample_batch=self.source.take(2), **case.options
        )

    def loader_at(self, size: int) -> torch.utils.data.DataLoader:
        rows = OnHost(self.loader.dataset, self.loader.collate_fn, self.device)
        return torch.utils.data.DataLoader(
            rows, batch_size=size, shuffle=True, collate_fn=rows.together
        )

    def one_step(self, batch: Any) -> None:
        self.optimizer.zero_grad()
        self.step.forward_backward(batch)
        self.step.update()

    def state(self) -> dict[str, str]:
        """A digest of each kind of state, bit for bit."""
        parts = {
            "weights and buffers": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "gradients": [p.grad for p in self.model.parameters()],
            "modes": [module.training for module in self.model.modules()],
            "random numbers": [torch.get_rng_state(), random.getstate(), np.random.get_state()],
        }
        return {name: digest([(name, value)]) for name, value in parts.items()}


def runs(case: Any, limit: int, size: int, steps: int, *, longest: bool) -> bool:
    """Whether ``steps`` ordinary steps at ``size`` stay within ``limit``."""
    torch.manual_seed(1)
    device = Device(limit)
    training = Training(case, device)
    batches = _same(training, size) if longest else _shuffled(training, size)
    try:
        with device:
            for _ in range(steps):
                training.one_step(next(batches))
    except torch.OutOfMemoryError:
        return False
    return True


def _same(training: Training, size: int) -> Iterator[Any]:
    with training.device.loading():
        batch = training.source.take(size)
    while True:
        yield batch


def _shuffled(training: Training, size: int) -> Iterator[Any]:
    while True:
        yield from training.loader_at(size)


def true_maximum(case: Any, limit: int) -> int:
    """The largest size at which two steps on the longest samples fit, by bisection."""
    low, high = 0, 1
    while runs(case, limit, high, 2, longest=True):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        fits = runs(case, limit, middle, 2, longest=True)
        low, high = (middle, high) if fits else (low, middle)
    return low
