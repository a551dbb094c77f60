"""Work that may run out of memory: what it left is freed, and it is said as one error of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from batchfinder.errors import NoiseNotMeasured
from batchfinder.protocols import TrainStep
from batchfinder.run.attempt import Shortage
from batchfinder.run.attempt import attempt as attempt_at
from batchfinder.run.oom import Verdict

T = TypeVar("T")


class NoRoom(NoiseNotMeasured):
    """Memory ran out: trials hold no gradients between micro-batches, and no sketches.

    Way out: a smaller micro-batch.
    """


class NoRoomToUpdate(NoRoom):
    """Memory ran out in the update, which no smaller micro-batch makes smaller."""


def attempt(step: TrainStep, size: int, work: Callable[[], T]) -> T:
    """``work()``, with micro-batches of ``size``; every error but a shortage as it is.

    Raises:
        NoRoom: where memory, or what a kernel can address, ended. All gradients are gone then.
    """
    try:
        return attempt_at(work, step=step, size=size, doing="a training step")
    except Shortage as shortage:
        out = shortage.verdict is Verdict.OUT_OF_MEMORY
    # not in the handler, so that nothing of the shortage is kept
    what = "memory ran out" if out else "an index limit was met"
    raise NoRoom(f"{what} with a micro-batch of {size}")
