"""What is run at one size: the step, its batches and the device's memory, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from batchfinder.protocols.device import MemoryBackend
from batchfinder.protocols.source import BatchSource
from batchfinder.protocols.step import TrainStep

__all__ = ["Setup"]

S_co = TypeVar("S_co", bound=TrainStep, covariant=True)


@dataclass(frozen=True)
class Setup(Generic[S_co]):
    """A training step, where its batches come from, and the memory that it runs in."""

    step: S_co
    source: BatchSource
    memory: MemoryBackend
