"""What one rank trains with, as all ranks have it."""

from __future__ import annotations

from batchfinder.protocols import Ranks, Setup, WholeStep
from batchfinder.run.ranks.agreed_memory import AgreedMemory
from batchfinder.run.ranks.agreed_source import AgreedSource
from batchfinder.run.ranks.agreed_step import AgreedStep
from batchfinder.run.ranks.wrappers import Wrapping

__all__ = ["joined"]


def joined(
    setup: Setup[WholeStep],
    ranks: Ranks,
    wrapping: Wrapping,
    *,
    rooms: dict[int, tuple[int, ...]] | None = None,
) -> Setup[WholeStep]:
    """The same where there is one process; else such that all ranks go the same way.

    ``rooms`` is filled as ``AgreedMemory`` says.
    """
    if ranks.alone:
        return setup
    return Setup(
        AgreedStep(setup.step, ranks, wrapping),
        AgreedSource(setup.source, ranks),
        AgreedMemory(setup.memory, ranks, {} if rooms is None else rooms),
    )
