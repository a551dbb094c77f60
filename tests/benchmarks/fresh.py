"""Tasks for long runs that nothing was settled on.

Written, and first trained on, after the powers of ``batchfinder/race/arithmetic.py`` were fixed.
Models of 2,000 to 5,000 parameters on data that is generated.
"""

from __future__ import annotations

import functools
import math

import torch
from held_out import _split
from tasks import ADAM, SGD, Data, Task, classify, forecast
from torch import Tensor, nn
from unseen import COUNT, SIZES

__all__ = ["FRESH"]

WORDS, BAG = 40, 6
PATH = 32


@functools.cache
def springs_data() -> Data:
    """Places and speeds of five masses on stiffening springs; their places a while later."""
    generator = torch.Generator().manual_seed(51)
    place = torch.randn(COUNT, 5, generator=generator)
    speed = torch.randn(COUNT, 5, generator=generator)
    start = torch.cat([place, speed], dim=1)
    for _ in range(40):
        apart = torch.nn.functional.pad(place, (1, 1)).diff(dim=1)
        pull = apart + 0.3 * apart**3
        speed = speed + 0.04 * pull.diff(dim=1)
        place = place + 0.04 * speed
    return _split(start, place + 0.05 * torch.randn(place.shape, generator=generator))


@functools.cache
def bags_data() -> Data:
    """Two bags of six words; which weighs more, some words counting only beside others."""
    generator = torch.Generator().manual_seed(52)
    words = torch.randint(0, WORDS, (COUNT, 2, BAG), generator=generator)
    weight = torch.randn(WORDS, generator=generator)
    beside = 0.3 * torch.randn(WORDS, WORDS, generator=generator)
    heavy = weight[words].sum(2) + beside[words[..., :, None], words[..., None, :]].sum((2, 3))
    return _split(words.flatten(1), heavy.argmax(dim=1))


@functools.cache
def paths_data() -> Data:
    """Thirty-two steps of a price; which of six kinds of walk made them."""
    generator = torch.Generator().manual_seed(53)
    kind = torch.randint(0, 6, (COUNT,), generator=generator)
    memory = torch.tensor([0.0, 0.6, -0.6, 0.3, 0.0, -0.3])[kind]
    spread = torch.tensor([1.0, 0.8, 0.8, 1.0, 1.5, 1.2])[kind]
    last, steps = torch.zeros(COUNT), []
    for _ in range(PATH):
        last = memory * last + spread * torch.randn(COUNT, generator=generator)
        steps.append(last)
    return _split(torch.stack(steps, dim=1).cumsum(1) / PATH**0.5, kind)


@functools.cache
def cubic_data() -> Data:
    """Eight numbers; a polynomial of third degree of them, with noise."""
    generator = torch.Generator().manual_seed(54)
    points = 2 * torch.rand(COUNT, 8, generator=generator) - 1
    second = torch.randn(8, 8, generator=generator)
    third = torch.randn(8, 8, 8, generator=generator)
    values = torch.einsum("ni,ij,nj->n", points, second, points) / 4
    values = values + torch.einsum("ni,nj,nk,ijk->n", points, points, points, third) / 4
    noise = 0.2 * torch.randn(COUNT, generator=generator)
    return _split(points, (values + noise)[:, None])


class Springs(nn.Module):
    """Two residual blocks on the places and speeds."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.first = nn.Linear(10, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.last = nn.Linear(width, 5)

    def forward(self, start: Tensor) -> Tensor:
        values = self.first(start)
        for block in self.blocks:
            values = values + torch.tanh(block(values))
        return self.last(values)


class Bags(nn.Module):
    """Embeddings of either bag, side by side."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embedded = nn.Embedding(WORDS, width)
        self.body = nn.Sequential(
            nn.Linear(2 * BAG * width, 40),
            nn.GELU(),
            nn.Linear(40, 24),
            nn.GELU(),
            nn.Linear(24, 2),
        )

    def forward(self, words: Tensor) -> Tensor:
        return self.body(self.embedded(words).flatten(1))


def paths() -> nn.Module:
    return nn.Sequential(
        nn.Linear(PATH, 48),
        nn.LayerNorm(48),
        nn.SiLU(),
        nn.Linear(48, 32),
        nn.SiLU(),
        nn.Linear(32, 6),
    )


def cubic() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 1)
    )


FRESH: tuple[Task, ...] = (
    Task(
        "springs, residual, AdamW", ADAM, Springs, springs_data, forecast, -math.inf, SIZES, 0.004
    ),
    Task("bags of words, AdamW", ADAM, Bags, bags_data, classify, -math.inf, SIZES, 0.004),
    Task("paths, LayerNorm, SGD", SGD, paths, paths_data, classify, -math.inf, SIZES, 0.05),
    Task("cubic, SGD", SGD, cubic, cubic_data, forecast, -math.inf, SIZES, 0.05),
)
