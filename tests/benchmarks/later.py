"""More tasks for long runs, on which it was settled how far a race moves a rate.

Models of 2,000 to 8,000 parameters on data that is generated.
"""

from __future__ import annotations

import functools
import math

import torch
from held_out import _split
from tasks import ADAM, SGD, Data, Task, classify, forecast
from torch import Tensor, nn
from unseen import COUNT, SIZES

__all__ = ["LATER"]

LETTERS, CONTEXT = 12, 6


@functools.cache
def moons_data() -> Data:
    """Points on two half circles under noise of a known level; the noise that was added."""
    generator = torch.Generator().manual_seed(41)
    angle = math.pi * torch.rand(COUNT, generator=generator)
    upper = torch.rand(COUNT, generator=generator) < 0.5
    sign = torch.where(upper, 1.0, -1.0)
    points = torch.stack([angle.cos() + 0.5 * ~upper, sign * angle.sin() + 0.25 * ~upper], dim=1)
    level = 0.5 + 0.5 * torch.rand(COUNT, 1, generator=generator)
    noise = torch.randn(COUNT, 2, generator=generator)
    noisy = (1 - level).sqrt() * points + level.sqrt() * noise
    waves = torch.cat([(k * math.pi * level).cos() for k in range(1, 7)], dim=1)
    return _split(torch.cat([noisy, waves], dim=1), noise)


@functools.cache
def letters_data() -> Data:
    """Six letters of a chain of second order; the next one."""
    generator = torch.Generator().manual_seed(42)
    liking = 2.0 * torch.randn(LETTERS, LETTERS, LETTERS, generator=generator)
    odds = liking.softmax(dim=-1)
    chains = torch.randint(0, LETTERS, (COUNT, 2), generator=generator)
    for _ in range(CONTEXT + 1):
        following = torch.multinomial(odds[chains[:, -2], chains[:, -1]], 1, generator=generator)
        chains = torch.cat([chains, following], dim=1)
    return _split(chains[:, -CONTEXT - 1 : -1], chains[:, -1])


@functools.cache
def terrain_data() -> Data:
    """Sixteen waves of a place on a map; its height there, rough at every scale, with noise."""
    generator = torch.Generator().manual_seed(43)
    places = torch.rand(COUNT, 2, generator=generator)
    height = torch.zeros(COUNT)
    for octave in range(5):
        for _ in range(4):
            course = 2.0**octave * torch.randn(2, generator=generator)
            phase = 2 * math.pi * torch.rand(1, generator=generator)
            height += 0.6**octave * torch.sin(2 * math.pi * places @ course + phase)
    courses = 2.0 * torch.randn(2, 16, generator=generator)
    turned = 2 * math.pi * places @ courses
    noise = 0.1 * torch.randn(COUNT, generator=generator)
    return _split(torch.cat([turned.sin(), turned.cos()], dim=1), (height + noise)[:, None])


@functools.cache
def doubtful_data() -> Data:
    """Thirty numbers; the largest of ten outputs of a random network, one label in five wrong."""
    generator = torch.Generator().manual_seed(44)
    points = torch.randn(COUNT, 30, generator=generator)
    hidden = torch.tanh(points @ torch.randn(30, 20, generator=generator) / 30**0.5 * 2)
    labels = (hidden @ torch.randn(20, 10, generator=generator)).argmax(dim=1)
    wrong = torch.rand(COUNT, generator=generator) < 0.2
    others = torch.randint(0, 10, (COUNT,), generator=generator)
    return _split(points, torch.where(wrong, others, labels))


def moons() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 2)
    )


class Letters(nn.Module):
    """Embeddings of six letters side by side, and one residual block."""

    def __init__(self, width: int = 8, hidden: int = 48) -> None:
        super().__init__()
        self.embedded = nn.Embedding(LETTERS, width)
        self.first = nn.Linear(CONTEXT * width, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, LETTERS)

    def forward(self, letters: Tensor) -> Tensor:
        values = torch.nn.functional.gelu(self.first(self.embedded(letters).flatten(1)))
        return self.last(values + torch.nn.functional.gelu(self.second(values)))


def terrain() -> nn.Module:
    return nn.Sequential(
        nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 1)
    )


def doubtful() -> nn.Module:
    return nn.Sequential(
        nn.Linear(30, 48), nn.GELU(), nn.Linear(48, 48), nn.GELU(), nn.Linear(48, 10)
    )


LATER: tuple[Task, ...] = (
    Task("moons denoised, AdamW", ADAM, moons, moons_data, forecast, -math.inf, SIZES, 0.004),
    Task("letters, AdamW", ADAM, Letters, letters_data, classify, -math.inf, SIZES, 0.004),
    Task("terrain, SGD", SGD, terrain, terrain_data, forecast, -math.inf, SIZES, 0.05),
    Task("doubtful labels, SGD", SGD, doubtful, doubtful_data, classify, -math.inf, SIZES, 0.05),
)
