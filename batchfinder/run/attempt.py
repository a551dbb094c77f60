"""Work at one size, where memory may end: recognised and cleaned up in one way."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from batchfinder.errors import BatchFinderError, DeviceLost
from batchfinder.protocols import MemoryBackend, TrainStep
from batchfinder.run.oom import Verdict, is_about_size, sign_of

__all__ = [
    "A_STEP",
    "YOUNG",
    "Shortage",
    "attempt",
    "empty_cache",
    "flush_autograd",
    "recover",
]


OLDEST, YOUNG = 2, 1
"""Generations of the garbage collector: all objects there are, and those made lately."""


def recover(
    step: TrainStep, memory: MemoryBackend | None = None, *, generation: int = OLDEST
) -> None:
    """Free what a failed step left: gradients, its graph, cycles, cached blocks; in this order.

    To be called outside ``except``: inside, the exception's traceback keeps the frames of the
    failed step alive with all their tensors. Weights and optimizer state that the step changed
    are the caller's to put back. Without ``memory`` the cache of the step's device is emptied.
    Cycles are looked for up to ``generation``: ``YOUNG`` where only one step was taken, since all
    objects of a process that has imported torch take a quarter of a second.
    """
    step.zero_grad()
    flush_autograd(step.device)
    gc.collect(generation)
    if memory is None:
        empty_cache(step.device)
        return
    memory.synchronize()
    memory.release()


def flush_autograd(device: torch.device) -> None:
    """Let autograd drop what a failed backward left in its queue.

    The engine's thread keeps the graph of the task that failed until its next one
    (https://github.com/pytorch/pytorch/issues/82218): a backward of one number is enough.
    """
    with torch.inference_mode(False), torch.enable_grad():
        torch.autograd.backward(torch.zeros((), device=device, requires_grad=True).sum())


def empty_cache(device: torch.device) -> None:
    """Hand cached blocks back to the driver, on a device whose allocator keeps any."""
    module: Any = getattr(torch, device.type, None)
    if device.type in ("cpu", "meta") or not hasattr(module, "empty_cache"):
        return
    if device.type != "mps" and not module.is_initialized():
        return
    module.synchronize()
    module.empty_cache()


A_STEP = "a training step"


class Shortage(BatchFinderError):
    """Work at one size met the end of memory or an index limit; a smaller size may do.

    Way out: a smaller micro-batch.
    """

    def __init__(self, verdict: Verdict, size: int, doing: str, message: str) -> None:
        what = (
            "memory ran out" if verdict is Verdict.OUT_OF_MEMORY else "an index limit was exceeded"
        )
        where = "" if doing == A_STEP else f", in {doing}"
        super().__init__(f"{what} with a micro-batch of {size}{where}")
        self.verdict = verdict
        self.size = size
        self.doing = doing
        self.message = message


@contextmanager
def attempt(
    step: TrainStep,
    size: int,
    doing: str | Callable[[], str] = A_STEP,
    *,
    memory: MemoryBackend | None = None,
) -> Iterator[None]:
    """Work inside may not fit; nothing of the step that failed is alive afterwards.

    A context rather than a function of the work, so that no frame comes between the caller and
    the step. Weights and optimizer state that the step changed are the caller's to put back, and
    so are the caller's own variables.

    Args:
        step: whose gradients are dropped.
        size: micro-batch, for the messages. At size 1 a message that may be a plain mistake is
            taken for one: a mistake is made at every size.
        doing: what the work is, as in "in {doing} at batch size 8"; a function where it has parts.
        memory: whose cache is emptied; left out, that of the step's device.

    Raises:
        Shortage: for out of memory and for index limits of kernels.
        DeviceLost: where the device cannot be used again in this process.
        Exception: any other error, as itself, with a note of what was done at which size.
    """
    outer = sys.exception()  # the user's own, where the call stands in an ``except``
    try:
        with step.ranks.together(f"work at {size}"):
            yield
    except Exception as error:
        now = doing if isinstance(doing, str) else doing()
        sign = sign_of(error)
        if sign.verdict is Verdict.DEVICE_LOST:
            raise DeviceLost(_lost(error, size, now)) from error
        if not is_about_size(sign, size):
            error.add_note(f"batchfinder: in {now} at batch size {size}")
            raise
        shortage = Shortage(sign.verdict, size, now, " ".join(str(error).split()))
        _forget_frames(error, outer)
    else:
        return
    try:
        recover(step, memory)
    except RuntimeError as error:  # a device's own errors may surface late
        if sign_of(error).verdict is Verdict.DEVICE_LOST:
            raise DeviceLost(_lost(error, size, "clean-up")) from error
        raise
    raise shortage from None


def _forget_frames(error: BaseException, outer: BaseException | None) -> None:
    """Drop the frames that failed, with their variables; ``outer`` was there before.

    The traceback keeps them, with the failed step's tensors, for as long as the error is alive,
    which is until the caller's ``with`` has ended. A frame without its variables still keeps what
    its function closes over, such as the input of a part that is computed anew in the backward.
    """
    seen = set() if outer is None else {id(outer)}
    waiting: list[BaseException | None] = [error]
    while waiting:
        failed = waiting.pop()
        if failed is None or id(failed) in seen:
            continue
        seen.add(id(failed))
        trace = failed.__traceback__
        traceback.clear_frames(trace)
        while trace is not None:
            trace.tb_next, trace = None, trace.tb_next
        waiting += [failed.__cause__, failed.__context__]
        if isinstance(failed, BaseExceptionGroup):
            waiting += failed.exceptions


def _lost(error: Exception, size: int, doing: str) -> str:
    return (
        f"the device was lost in {doing} at batch size {size} ({str(error).splitlines()[0]}): "
        "every later call on it fails. Restart the process; search=Search(isolate=make) runs every "
        "trial in a process of its own"
    )
