"""What one rank trains with, as all ranks have it."""

from __future__ import annotations

from batchfinder.protocols import BatchSource, MemoryBackend, Ranks, WholeStep
from batchfinder.run.ranks.agreed_memory import AgreedMemory
from batchfinder.run.ranks.agreed_source import AgreedSource
from batchfinder.run.ranks.agreed_step import AgreedStep
from batchfinder.run.ranks.wrappers import Wrapping

__all__ = ["joined"]


def joined(
    step: WholeStep,
    source: BatchSource,
    memory: MemoryBackend,
    ranks: Ranks,
    wrapping: Wrapping,
) -> tuple[WholeStep, BatchSource, MemoryBackend]:
    """The same three where there is one process; else such that all ranks go the same way."""
    if ranks.alone:
        return step, source, memory
    return (
        AgreedStep(step, ranks, wrapping),
        AgreedSource(source, ranks),
        AgreedMemory(memory, ranks),
    )
