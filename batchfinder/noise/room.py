"""Work that may run out of memory: what it left is freed, and it is said as one error of ours."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from batchfinder.errors import NoiseNotMeasured
from batchfinder.protocols import TrainStep
from batchfinder.run.oom import Sign, Verdict, sign_of
from batchfinder.run.recover import flush_autograd

T = TypeVar("T")

NO_ROOM = "{reason}, which cannot be made smaller: the noise scale is absent"


class NoRoom(NoiseNotMeasured):
    """Memory ran out: trials hold no gradients between micro-batches, and no sketches.

    Way out: a smaller micro-batch.
    """


class NoRoomToUpdate(NoRoom):
    """Memory ran out in the update, which no smaller micro-batch makes smaller."""


def attempt(step: TrainStep, size: int, work: Callable[[], T]) -> T:
    """``work()``, with micro-batches of ``size``; every error but out of memory as it is.

    Raises:
        NoRoom: where memory ran out. All gradients are gone then.
    """
    try:
        return work()
    except Exception as error:
        if not _is_shortage(sign_of(error), size):
            raise
    # not before: the traceback would keep the failed step's tensors alive
    _clean_up(step)
    raise NoRoom(f"memory ran out with a micro-batch of {size}")


def _is_shortage(sign: Sign, size: int) -> bool:
    """Whether it is memory. A message that may be a mistake is one at size 1."""
    return sign.verdict is Verdict.OUT_OF_MEMORY and (sign.certain or size > 1)


def _clean_up(step: TrainStep) -> None:
    step.zero_grad()
    flush_autograd(step.device)
    gc.collect()
    if step.device.type == "cuda":
        torch.cuda.empty_cache()
