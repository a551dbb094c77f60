"""Out of memory, index limits and a lost device: one rule, and nothing left alive."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable

import pytest
import torch
from fakes import FakeClock, FakeMemory, FakeStep

from batchfinder.errors import DeviceLost
from batchfinder.run import recover as recovering
from batchfinder.run.attempt import Shortage, attempt
from batchfinder.run.oom import Verdict

STEP = FakeStep(FakeClock(), float)
DOUBTFUL = "Unable to find a valid cuDNN algorithm to run convolution"


def failing(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def test_what_the_work_returns_is_returned() -> None:
    assert attempt(lambda: 7, step=STEP, size=4, doing="counting") == 7


@pytest.mark.parametrize(
    ("message", "verdict"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", Verdict.OUT_OF_MEMORY),
        ("XPU out of memory. Tried to allocate 2.00 GiB", Verdict.OUT_OF_MEMORY),
        ("more than INT_MAX elements", Verdict.INDEX_LIMIT),
        (DOUBTFUL, Verdict.OUT_OF_MEMORY),
    ],
)
def test_a_shortage_says_what_ended_and_where(message: str, verdict: Verdict) -> None:
    with pytest.raises(Shortage) as caught:
        attempt(failing(RuntimeError(message)), step=STEP, size=4, doing="timing")
    assert (caught.value.verdict, caught.value.doing) == (verdict, "timing")
    assert message in caught.value.message
    assert caught.value.__context__ is None


def test_at_size_one_what_may_be_a_mistake_is_one() -> None:
    mistake = RuntimeError(DOUBTFUL)
    with pytest.raises(RuntimeError) as caught:
        attempt(failing(mistake), step=STEP, size=1, doing="timing")
    assert caught.value is mistake


def test_a_bug_is_itself_with_a_note_of_the_part_that_failed() -> None:
    part = ["loading"]

    def work() -> None:
        part[0] = "update"
        raise KeyError("mine")

    with pytest.raises(KeyError) as caught:
        attempt(work, step=STEP, size=4, doing=lambda: f"{part[0]} of a trial")
    assert caught.value.__notes__ == ["batchfinder: in update of a trial at batch size 4"]


def test_a_lost_device_is_said() -> None:
    lost = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(DeviceLost, match="lost in timing at batch size 4"):
        attempt(failing(lost), step=STEP, size=4, doing="timing")


def test_a_device_lost_in_the_clean_up_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("batchfinder.run.attempt.recover", late)
    short = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
    with pytest.raises(DeviceLost, match="lost in clean-up"):
        attempt(failing(short), step=STEP, size=4, doing="timing")


def test_the_clean_up_comes_after_the_failed_frames_are_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def work() -> None:
        large = torch.ones(10)
        held.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    def collect() -> int:
        alive.append(held[0]() is not None or sys.exc_info()[0] is not None)
        return 0

    monkeypatch.setattr(recovering.gc, "collect", collect)
    with pytest.raises(Shortage):
        attempt(work, step=STEP, memory=FakeMemory(), size=8, doing="timing")
    assert alive == [False]
