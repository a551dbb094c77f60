"""Small trainings whose bytes can be counted by hand, for the tests of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from fakes import as_asked_for, watched_by_hand
from torch import nn

from batchfinder.protocols import Ranks
from batchfinder.rates import OptimizerFamily
from batchfinder.run.memory.cpu import highest
from batchfinder.run.ranks import ALONE
from batchfinder.run.torch_internals.storages import CpuAllocations

CPU = torch.device("cpu")
FLOAT = 4


@dataclass
class PlainStep:
    """A training step as batchfinder.run expects it, without any inference."""

    model: nn.Module
    loss: Callable[[nn.Module, Any], torch.Tensor]
    optimizer: torch.optim.Optimizer
    device: torch.device = CPU
    is_compiled: bool = False
    updates_itself: bool = False
    ranks: Ranks = ALONE
    optimizer_family: OptimizerFamily = OptimizerFamily.SGD
    calls: list[str] = field(default_factory=list)

    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def holdings(self) -> Iterator[torch.Tensor]:
        yield from self.model.parameters()
        yield from self.model.buffers()
        yield from (p.grad for p in self.model.parameters() if p.grad is not None)
        for state in self.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, torch.Tensor))

    def forward_backward(self, batch: Any, scale: float = 1.0) -> torch.Tensor:
        self.calls.append("forward_backward")
        loss = self.loss(self.model, batch)
        (loss * scale if scale != 1.0 else loss).backward()
        return loss.detach()

    def loss_scale(self) -> float:
        return 1.0

    def update(self) -> None:
        self.calls.append("update")
        self.optimizer.step()

    def watched(self) -> Any:
        return watched_by_hand(as_asked_for)

    def learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def scale_learning_rate(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] *= factor

    def set_learning_rate(self, rate: float) -> None:
        self.scale_learning_rate(rate / self.learning_rate())

    def zero_grad(self) -> None:
        self.calls.append("zero_grad")
        for parameter in self.model.parameters():
            parameter.grad = None


@dataclass
class Made:
    """A source that makes each batch by a function of its size."""

    make: Callable[[int], Any]
    base_batch_size: int | None = None
    length: int | None = None
    ceiling: int | None = None
    unit: str = "samples"
    worker_copies: int = 0

    def take(self, size: int) -> Any:
        return self.make(size)

    ordinary = draw = take

    def expect(self, sizes: list[int]) -> None: ...

    def rewind(self, seed: int) -> None:
        torch.manual_seed(seed)

    def count(self, batch: Any) -> int:
        return len(batch[0])

    def rebuild(self, size: int) -> Any:
        raise NotImplementedError


def squared_error(model: nn.Module, batch: Any) -> torch.Tensor:
    inputs, target = batch
    return (model(inputs) - target).square().mean()


def linear_training(width: int = 100, momentum: float = 0.0) -> tuple[PlainStep, Made]:
    """One square layer under SGD."""
    model = nn.Linear(width, width, bias=False)
    step = PlainStep(
        model, squared_error, torch.optim.SGD(model.parameters(), lr=0.01, momentum=momentum)
    )
    return step, Made(lambda size: (torch.zeros(size, width), torch.zeros(size, width)))


def whole_step(step: PlainStep, batch: Any) -> None:
    """One step that begins and ends without gradients, as the profiler needs it."""
    step.zero_grad()
    step.forward_backward(batch)
    step.update()
    step.zero_grad()


def rise_by_profiler(work: Callable[[], None]) -> int:
    """How far the CPU's allocated memory rose during ``work``: every allocation counted."""
    with CpuAllocations() as record:
        work()
    return highest(record.changes)
