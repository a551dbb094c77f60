"""What one rank trains with, as all ranks have it."""

from __future__ import annotations

from batchfinder.protocols import Ranks, Setup, TrainStep, WholeStep
from batchfinder.run.ranks.agreed_memory import AgreedMemory
from batchfinder.run.ranks.agreed_source import AgreedSource
from batchfinder.run.ranks.agreed_step import AgreedStep, AgreedTrainStep
from batchfinder.run.ranks.wrappers import Wrapping

__all__ = ["joined", "joined_for_evaluation"]


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


def joined_for_evaluation(
    setup: Setup[TrainStep], ranks: Ranks, wrapping: Wrapping
) -> Setup[TrainStep]:
    """As ``joined``, of a step that trains nothing."""
    if ranks.alone:
        return setup
    return Setup(
        AgreedTrainStep(setup.step, ranks, wrapping),
        AgreedSource(setup.source, ranks),
        AgreedMemory(setup.memory, ranks, {}),
    )
