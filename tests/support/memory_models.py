"""Trainings as people have them, small: for the tests and benchmarks of memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from memory_cases import Made, PlainStep
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

Batches = Callable[[int], Any]


class ConvNet(nn.Module):
    def __init__(self, recompute: bool = False) -> None:
        super().__init__()
        widths = (3, 16, 32, 32)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in itertools.pairwise(widths)
        )
        self.head = nn.Linear(32, 10)
        self.recompute = recompute

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            images = (
                checkpoint(block, images, use_reentrant=False) if self.recompute else block(images)
            )
        return self.head(images.mean((2, 3)))


class Language(nn.Module):
    def __init__(self, words: int = 500, width: int = 64, recompute: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, 0.1, batch_first=True, norm_first=True)
            for _ in range(3)
        )
        self.head = nn.Linear(width, words)
        self.recompute = recompute

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        values = self.words(tokens)
        for block in self.blocks:
            values = (
                checkpoint(block, values, use_reentrant=False) if self.recompute else block(values)
            )
        return self.head(values)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = self.block(3, 16), self.block(16, 32)
        self.middle = self.block(32, 64)
        self.up2, self.up1 = self.block(96, 32), self.block(48, 16)
        self.out = nn.Conv2d(16, 4, 1)

    def block(self, before: int, after: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(4, after), nn.SiLU()
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        one = self.down1(images)
        two = self.down2(functional.max_pool2d(one, 2))
        low = self.middle(functional.max_pool2d(two, 2))
        two = self.up2(torch.cat([functional.interpolate(low, scale_factor=2.0), two], 1))
        return self.out(
            self.up1(torch.cat([functional.interpolate(two, scale_factor=2.0), one], 1))
        )


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 64, 2, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(sequences)[0][:, -1])


class Branches(nn.Module):
    """Several ways through, whose backwards wait for one another: like query, key and value."""

    def __init__(self) -> None:
        super().__init__()
        self.ways = nn.ModuleList(
            nn.Sequential(nn.Linear(256, 512), nn.Tanh(), nn.Linear(512, 64)) for _ in range(4)
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.stack([way(inputs) for way in self.ways]).sum(0)


def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )


def classes(shape: tuple[int, ...]) -> Batches:
    return lambda size: (torch.zeros(size, *shape), torch.zeros(size, dtype=torch.long))


def pixels(size: int) -> Any:
    return torch.zeros(size, 3, 32, 32), torch.zeros(size, 32, 32, dtype=torch.long)


def sentences(size: int) -> Any:
    return torch.zeros(size, 64, dtype=torch.long), torch.zeros(size, 64, dtype=torch.long)


def cross_entropy(model: nn.Module, batch: Any) -> torch.Tensor:
    output = model(batch[0])
    return (
        functional.cross_entropy(output.flatten(0, 1), batch[1].flatten())
        if output.ndim == 3
        else (functional.cross_entropy(output, batch[1]))
    )


def half(model: nn.Module, batch: Any) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return cross_entropy(model, batch)


class Accumulating(PlainStep):
    """Two micro-batches per update."""

    def forward_backward(self, batch: Any, scale: float = 1.0) -> torch.Tensor:
        super().forward_backward(batch, 0.5 * scale)
        return super().forward_backward(batch, 0.5 * scale)


@dataclass(frozen=True)
class Training:
    """One of the table below. ``least_share``: of its true rise, what the ledger must count."""

    model: Callable[[], nn.Module]
    batches: Batches
    size: int
    least_share: float = 1.0
    loss: Callable[[nn.Module, Any], torch.Tensor] = cross_entropy
    optimizer: Callable[[Any], torch.optim.Optimizer] = torch.optim.AdamW
    step: type[PlainStep] = PlainStep

    def make(self) -> tuple[PlainStep, Made]:
        torch.manual_seed(0)
        model = self.model()
        return self.step(model, self.loss, self.optimizer(model.parameters())), Made(self.batches)


def momentum(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


IMAGES = classes((3, 32, 32))
TRAININGS = {
    "perceptron, SGD": Training(
        perceptron, classes((256,)), 512, optimizer=lambda p: torch.optim.SGD(p, lr=0.1)
    ),
    "perceptron, fused AdamW": Training(
        perceptron, classes((256,)), 64, optimizer=lambda p: torch.optim.AdamW(p, fused=True)
    ),
    "branches, SGD": Training(
        Branches, classes((256,)), 256, optimizer=lambda p: torch.optim.SGD(p, lr=0.1)
    ),
    "CNN with BatchNorm": Training(ConvNet, IMAGES, 16, 0.8, optimizer=momentum),
    "Transformer, Adam": Training(Language, sentences, 8, optimizer=torch.optim.Adam),
    "UNet": Training(UNet, pixels, 8, 0.8),
    "LSTM": Training(Recurrent, classes((50, 32)), 32, 0.7),
    "Transformer, checkpointing": Training(lambda: Language(recompute=True), sentences, 8, 0.999),
    "CNN, checkpointing": Training(lambda: ConvNet(recompute=True), IMAGES, 16, 0.7),
    "Transformer, accumulation": Training(Language, sentences, 4, step=Accumulating),
    "Transformer, bf16 autocast": Training(Language, sentences, 8, 0.95, loss=half),
}
