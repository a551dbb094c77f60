"""Small problems whose exact noise scale is known, and the plainest step and source over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from batchfinder.run.ranks import ALONE

Loss: TypeAlias = Callable[[nn.Module, tuple[Tensor, ...]], Tensor]


class Population:
    """A finite set of samples, drawn with replacement (a stream) or without (a dataset)."""

    unit = "samples"
    base_batch_size: int | None = None

    def __init__(self, *columns: Tensor, replacement: bool = False, length: bool = True) -> None:
        self.columns = columns
        self.replacement = replacement
        self.rows = len(columns[0])
        self.length = self.rows if length and not replacement else None
        self.ceiling = self.length
        self.rewind(0)

    def expect(self, sizes: list[int]) -> None: ...

    def rewind(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.order = torch.randperm(self.rows, generator=self.generator)
        self.drawn = 0

    def draw(self, size: int) -> tuple[Tensor, ...]:
        if self.replacement:
            rows = torch.randint(0, self.rows, (size,), generator=self.generator)
        else:
            if self.drawn + size > self.rows:
                raise StopIteration
            rows = self.order[self.drawn : self.drawn + size]
            self.drawn += size
        return tuple(column[rows] for column in self.columns)

    def take(self, size: int) -> tuple[Tensor, ...]:
        return tuple(column[:size] for column in self.columns)

    ordinary = take

    def count(self, batch: tuple[Tensor, ...]) -> int:
        return len(batch[0])

    def rebuild(self, size: int) -> Iterable[tuple[Tensor, ...]]:
        raise NotImplementedError


class PlainStep:
    """A training step with nothing between the loss and the optimizer."""

    ranks = ALONE
    updates_itself = False
    weight = 1.0

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: torch.optim.Optimizer | None = None,
        loss_scale: float = 1.0,
    ) -> None:
        self.model, self.loss, self.optimizer, self.factor = model, loss, optimizer, loss_scale
        self.device = torch.device("cpu")
        self.updates = 0

    def modules(self) -> list[nn.Module]:
        return list(self.model.modules())

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [] if self.optimizer is None else [self.optimizer]

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def holdings(self) -> list[Tensor]:
        return list(self.model.parameters())

    def forward_backward(self, batch: tuple[Tensor, ...], scale: float = 1.0) -> Tensor:
        loss = self.loss(self.model, batch)
        (loss * scale * self.factor).backward()
        return loss.detach()

    def loss_scale(self) -> float:
        return self.factor

    def update(self) -> None:
        self.updates += 1
        if self.optimizer is not None:
            if self.factor != 1.0:
                for parameter in self.parameters():
                    if parameter.grad is not None:
                        parameter.grad /= self.factor
            self.optimizer.step()

    def learning_rate(self) -> float | None:
        return None if self.optimizer is None else self.optimizer.param_groups[0]["lr"]

    def scale_learning_rate(self, factor: float) -> None:
        for group in self.optimizer.param_groups if self.optimizer else ():
            group["lr"] *= factor

    def zero_grad(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = None


def cross_entropy(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def perceptron(seed: int = 0, width: int = 16) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, width), nn.Tanh(), nn.Linear(width, 4))


def blobs(rows: int = 2048, seed: int = 0, spread: float = 2.0) -> tuple[Tensor, Tensor]:
    """Overlapping Gaussian classes: some of the loss can never be learnt."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(4, 12, generator=generator)
    labels = torch.randint(0, 4, (rows,), generator=generator)
    inputs = centres[labels] + spread * torch.randn(rows, 12, generator=generator)
    return inputs, labels


def exact_noise_scale(
    model: nn.Module,
    loss: Loss,
    columns: tuple[Tensor, ...],
    weights: Sequence[Tensor] | None = None,
) -> tuple[float, float]:
    """tr Σ / |G|² and |G|² over the whole set, from the gradient of every sample.

    ``weights``, one tensor per parameter, multiply the gradients first.
    """
    total, squares, rows = 0.0, 0.0, len(columns[0])
    for flat in sample_gradients(model, loss, columns, weights):
        total = total + flat.sum(0)
        squares += float(flat.square().sum())
    mean = float((total / rows).square().sum())
    return (squares / rows - mean) / mean, mean


def sample_gradients(
    model: nn.Module,
    loss: Loss,
    columns: tuple[Tensor, ...],
    weights: Sequence[Tensor] | None = None,
) -> Iterator[Tensor]:
    """The gradient of every sample, as rows in double precision, 256 at a time."""
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *sample: Tensor) -> Tensor:
            return loss(self.model, tuple(column[None] for column in sample))

    wrapped = Wrapped()

    def one(values: dict[str, Tensor], *sample: Tensor) -> Tensor:
        named = {f"model.{name}": value for name, value in values.items()}
        return torch.func.functional_call(wrapped, named, sample)

    gradient = torch.func.vmap(torch.func.grad(one), in_dims=(None,) + (0,) * len(columns))
    for start in range(0, len(columns[0]), 256):
        part = gradient(parameters, *(column[start : start + 256] for column in columns))
        flat = torch.cat([value.flatten(1) for value in part.values()], dim=1).double()
        if weights is not None:
            flat *= torch.cat([weight.flatten() for weight in weights])
        yield flat


def train(step: PlainStep, source: Population, steps: int, size: int) -> None:
    for _ in range(steps):
        step.zero_grad()
        step.forward_backward(source.draw(size))
        step.update()
    step.zero_grad()
