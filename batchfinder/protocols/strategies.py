"""Functions that stand in for one of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from batchfinder.results import Candidate, Event, NoiseScale

__all__ = ["Advance", "Clock", "LearningRateRule", "Objective", "Observer"]

Objective: TypeAlias = Callable[[Sequence[Candidate]], Candidate]
"""Which candidate is best. Called with candidates in increasing global batch."""

LearningRateRule: TypeAlias = Callable[[float, float, float, "NoiseScale | None"], float]
"""(base learning rate, base batch, batch, noise scale) -> learning rate at ``batch``."""

Observer: TypeAlias = Callable[[Event], None]
"""Gets every event as frozen data, in the thread of the caller."""

Clock: TypeAlias = Callable[[], float]
"""Seconds since any fixed moment, never going back; ``time.perf_counter`` outside tests."""


class Advance(Protocol):
    """Told of every step of a stage: the samples that it took; 0 steps where it is part of one."""

    def __call__(self, samples: int, steps: int = 1) -> None: ...
