"""What an observer is told besides results: that something begins, how far it is, and notes."""

from __future__ import annotations

from dataclasses import dataclass

from batchfinder.outcomes import Stage

__all__ = ["Note", "Progress", "StageStarted", "TrialStarted"]


@dataclass(frozen=True)
class StageStarted:
    """An event: a stage begins. ``expected_seconds`` is ``None`` if unknown."""

    stage: Stage
    detail: str = ""
    expected_seconds: float | None = None


@dataclass(frozen=True)
class TrialStarted:
    """An event: a trial is about to run.

    ``expected_seconds`` is what its steps take, without reading, if earlier trials tell.
    """

    batch_size: int
    expected_seconds: float | None = None


@dataclass(frozen=True)
class Progress:
    """An event: how far a stage is that has lasted ``seconds``; at most twice a second.

    ``of`` is ``None`` where the number of steps is not known beforehand. ``waited_seconds`` is how
    long one step or read has lasted that is still under way; 0 where one has just ended.
    """

    stage: Stage
    done: int
    seconds: float
    of: int | None = None
    unit: str = "steps"
    samples_per_second: float = 0.0
    seconds_left: float | None = None
    waited_seconds: float = 0.0


@dataclass(frozen=True)
class Note:
    """An event: a message for the user during the call."""

    text: str
