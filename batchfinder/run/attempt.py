"""One piece of work at one size, where memory may end: recognised and cleaned up in one way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from batchfinder.errors import BatchFinderError, DeviceLost
from batchfinder.protocols import MemoryBackend, TrainStep
from batchfinder.run.oom import Verdict, is_about_size, sign_of
from batchfinder.run.recover import recover

__all__ = ["Shortage", "attempt"]

T = TypeVar("T")

_LONGEST = 300


class Shortage(BatchFinderError):
    """Work at one size met the end of memory or an index limit; a smaller size may do.

    Holds text alone: the error itself would keep the failed step's tensors alive.

    Way out: a smaller micro-batch.
    """

    def __init__(self, verdict: Verdict, doing: str, message: str) -> None:
        super().__init__(f"{verdict.value}, in {doing}: {message[:_LONGEST]}")
        self.verdict = verdict
        self.doing = doing
        self.message = message


def attempt(
    work: Callable[[], T],
    *,
    step: TrainStep,
    size: int,
    doing: str | Callable[[], str],
    memory: MemoryBackend | None = None,
) -> T:
    """``work()``; where it does not fit, nothing of the failed step is alive afterwards.

    Weights and optimizer state that the step changed are the caller's to put back.

    Args:
        work: runs the step.
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
    try:
        return work()
    except Exception as error:
        now = doing if isinstance(doing, str) else doing()
        sign = sign_of(error)
        if sign.verdict is Verdict.DEVICE_LOST:
            raise DeviceLost(_lost(error, size, now)) from error
        if not is_about_size(sign, size):
            error.add_note(f"batchfinder: in {now} at batch size {size}")
            raise
        shortage = Shortage(sign.verdict, now, " ".join(str(error).split()))
    # Not in the handler, whose traceback keeps the failed step's tensors alive.
    try:
        recover(step, memory)
    except RuntimeError as error:  # a device's own errors may surface late
        if sign_of(error).verdict is Verdict.DEVICE_LOST:
            raise DeviceLost(_lost(error, size, "clean-up")) from error
        raise
    raise shortage


def _lost(error: Exception, size: int, doing: str) -> str:
    return (
        f"the device was lost in {doing} at batch size {size} ({str(error).splitlines()[0]}): "
        "every later call on it fails. Restart the process; search=Search(isolate=make) runs every "
        "trial in a process of its own"
    )
