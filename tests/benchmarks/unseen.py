"""Tasks for long runs, written after every rule was made but one.

On seeing them, and those of ``later.py``, it was settled by which powers of the length of a run a
race carries its best rate, under SGD, under Adam, and where the rate decays.

Models of 2,000 to 22,000 parameters on data that is generated, or the source of Python itself.
"""

from __future__ import annotations

import functools
import math

import torch
from held_out import _split
from long_tasks import Window, source_data
from tasks import ADAM, SGD, Data, Task, classify, forecast
from torch import Tensor, nn

__all__ = ["SIZES", "UNSEEN"]

SIZES = (32, 128, 256, 512)
COUNT = 17408


@functools.cache
def arm_data() -> Data:
    """Three joint angles and two lengths of a robot's arm; where its hand is, with noise."""
    generator = torch.Generator().manual_seed(31)
    angles = (torch.rand(COUNT, 3, generator=generator) - 0.5) * math.pi
    lengths = 0.5 + torch.rand(COUNT, 2, generator=generator)
    turned = angles.cumsum(1)
    arms = torch.cat([lengths, torch.full((COUNT, 1), 0.5)], dim=1)
    hand = torch.stack([(arms * turned.cos()).sum(1), (arms * turned.sin()).sum(1)], dim=1)
    hand = hand + 0.05 * torch.randn(hand.shape, generator=generator)
    return _split(torch.cat([angles, lengths], dim=1), hand)


@functools.cache
def waves_data() -> Data:
    """Twenty-four places of two sines with noise; without it."""
    generator = torch.Generator().manual_seed(32)
    places = torch.linspace(0, 1, 24)
    pitch = 1 + 5 * torch.rand(COUNT, 2, 1, generator=generator)
    phase = 2 * math.pi * torch.rand(COUNT, 2, 1, generator=generator)
    clean = torch.sin(2 * math.pi * pitch * places + phase).sum(1)
    return _split(clean + 0.5 * torch.randn(clean.shape, generator=generator), clean)


@functools.cache
def rings_data() -> Data:
    """Which of three shells and which of two halves a point of ten dimensions is in."""
    generator = torch.Generator().manual_seed(33)
    points = torch.randn(COUNT, 10, generator=generator)
    far = points[:, :5].square().sum(1)
    shell = (far > 3.6).long() + (far > 5.1).long()
    half = (points[:, 5] * points[:, 6] + points[:, 7] > 0).long()
    labels = 2 * shell + half
    wrong = torch.rand(COUNT, generator=generator) < 0.05
    others = torch.randint(0, 6, (COUNT,), generator=generator)
    return _split(points, torch.where(wrong, others, labels))


@functools.cache
def median_data() -> Data:
    """Five numbers below 24; which of them is the median."""
    generator = torch.Generator().manual_seed(34)
    numbers = torch.stack([torch.randperm(24, generator=generator)[:5] for _ in range(COUNT)])
    return _split(numbers, numbers.argsort(dim=1)[:, 2])


def arm() -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 40), nn.SiLU(), nn.Linear(40, 40), nn.SiLU(), nn.Linear(40, 2)
    )


def waves() -> nn.Module:
    return nn.Sequential(
        nn.Linear(24, 48),
        nn.LayerNorm(48),
        nn.ReLU(),
        nn.Linear(48, 48),
        nn.LayerNorm(48),
        nn.ReLU(),
        nn.Linear(48, 24),
    )


def rings() -> nn.Module:
    return nn.Sequential(
        nn.Linear(10, 48),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(48, 48),
        nn.ReLU(),
        nn.Linear(48, 6),
    )


class Median(nn.Module):
    """Embeddings of five numbers side by side."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.embedded = nn.Embedding(24, width)
        self.body = nn.Sequential(
            nn.Linear(5 * width, 48), nn.Tanh(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 5)
        )

    def forward(self, numbers: Tensor) -> Tensor:
        return self.body(self.embedded(numbers).flatten(1))


UNSEEN: tuple[Task, ...] = (
    Task("robot arm, AdamW", ADAM, arm, arm_data, forecast, -math.inf, SIZES, 0.004),
    Task("waves, LayerNorm, SGD", SGD, waves, waves_data, forecast, -math.inf, SIZES, 0.05),
    Task("rings, dropout, AdamW", ADAM, rings, rings_data, classify, -math.inf, SIZES, 0.004),
    Task("median, embeddings, SGD", SGD, Median, median_data, classify, -math.inf, SIZES, 0.1),
    Task("source characters, SGD", SGD, Window, source_data, classify, -math.inf, SIZES, 0.1),
)
