"""Small trainings to watch: one whose noise scale is known, and loops as users write them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from batchfinder.monitor import TrainingMonitor


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def samples(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Three overlapping blobs: labels that stay uncertain, so that noise stays too."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    centres = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    return centres[labels] + torch.randn(count, 6, generator=generator), labels


def batches(size: int, seed: int = 2, count: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """An endless stream of fresh batches, or ``count`` of them."""
    steps = itertools.count() if count is None else range(count)
    return (samples(size, seed * 1_000_003 + step) for step in steps)


def loss_of(model: nn.Module, part: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(part[0]), part[1])


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    monitor: TrainingMonitor | None,
    stream: Iterator[tuple[Tensor, Tensor]],
    *,
    before_update: Callable[[], None] = lambda: None,
    loss: Callable[[nn.Module, tuple[Tensor, Tensor]], Tensor] = loss_of,
) -> list[float]:
    """The loop of the documentation; with no monitor, the plain one."""
    losses = []
    for batch in stream:
        optimizer.zero_grad()
        parts = [(batch, 1.0)] if monitor is None else monitor.parts(batch)
        for part, share in parts:
            value = loss(model, part)
            (value * share).backward()
        before_update()
        optimizer.step()
        if monitor is not None:
            monitor.step(value)
        losses.append(float(value.detach()))
    return losses


def accumulate(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    monitor: TrainingMonitor | None,
    stream: Iterator[tuple[Tensor, Tensor]],
    micro_batches: int,
) -> None:
    """A loop that accumulates by itself and knows nothing of parts."""
    while group := list(itertools.islice(stream, micro_batches)):
        optimizer.zero_grad()
        for batch in group:
            value = loss_of(model, batch)
            (value / len(group)).backward()
        optimizer.step()
        if monitor is not None:
            monitor.step(value)


def exact_moments(model: nn.Module, count: int = 20_000) -> tuple[float, float]:
    """|G|² and tr Σ from the gradient of every one of ``count`` samples."""
    inputs, labels = samples(count, seed=99)
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        out = torch.func.functional_call(model, values, (x[None],))
        return nn.functional.cross_entropy(out, y[None])

    gradients = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, inputs, labels)
    flat = torch.cat([value.flatten(1) for value in gradients.values()], dim=1).double()
    mean = flat.mean(0)
    trace = float((flat - mean).square().sum() / (count - 1))
    return float(mean.square().sum()) - trace / count, trace
