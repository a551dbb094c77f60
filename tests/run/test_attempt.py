"""Out of memory, index limits and a lost device: one rule, and nothing left alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from fakes import FakeClock, FakeMemory, FakeStep

from batchfinder.errors import DeviceLost
from batchfinder.run import attempt as recovering
from batchfinder.run.attempt import Shortage, attempt
from batchfinder.run.oom import Verdict

STEP = FakeStep(FakeClock(), float)
DOUBTFUL = "Unable to find a valid cuDNN algorithm to run convolution"


def fail(error: Exception, size: int = 4) -> None:
    with attempt(STEP, size, "timing"):
        raise error


def test_work_that_ends_well_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "batchfinder.run.attempt.recover", lambda *given: pytest.fail("nothing to clean up")
    )
    with attempt(STEP, 4, "counting"):
        seven = 7
    assert seven == 7


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
        fail(RuntimeError(message))
    assert (caught.value.verdict, caught.value.size, caught.value.doing) == (verdict, 4, "timing")
    assert message in caught.value.message
    assert str(caught.value).endswith("with a micro-batch of 4, in timing")


def test_a_shortage_in_a_plain_step_need_not_say_where() -> None:
    with pytest.raises(Shortage) as caught, attempt(STEP, 4):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
    assert str(caught.value) == "memory ran out with a micro-batch of 4"


def test_at_size_one_what_may_be_a_mistake_is_one() -> None:
    mistake = RuntimeError(DOUBTFUL)
    with pytest.raises(RuntimeError) as caught:
        fail(mistake, 1)
    assert caught.value is mistake


def test_a_bug_is_itself_with_a_note_of_the_part_that_failed() -> None:
    part = "loading"
    with pytest.raises(KeyError) as caught, attempt(STEP, 4, lambda: f"{part} of a trial"):
        part = "update"
        raise KeyError("mine")
    assert caught.value.__notes__ == ["batchfinder: in update of a trial at batch size 4"]


def test_a_lost_device_is_said() -> None:
    lost = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(DeviceLost, match="lost in timing at batch size 4"):
        fail(lost)


def test_a_device_lost_in_the_clean_up_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("batchfinder.run.attempt.recover", late)
    with pytest.raises(DeviceLost, match="lost in clean-up"):
        fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))


def in_pieces(held: list[weakref.ref[torch.Tensor]]) -> None:
    """Fails with an error that was caused by another, each with a tensor in its frames."""

    def inner() -> None:
        small = torch.ones(10)
        held.append(weakref.ref(small))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    large = torch.ones(10)
    held.append(weakref.ref(large))
    try:
        inner()
    except torch.OutOfMemoryError as error:
        raise ExceptionGroup("of mine", [error]) from error


def over_its_input(held: list[weakref.ref[torch.Tensor]]) -> None:
    """Fails in a function that closes over a tensor, as a checkpointed part computed anew does."""
    given = torch.ones(10)
    held.append(weakref.ref(given))

    def anew() -> None:
        raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(given)}")

    anew()


@pytest.mark.parametrize("fails", [in_pieces, over_its_input])
def test_nothing_of_the_failed_frames_is_alive_when_it_is_cleaned_up(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[[list[weakref.ref[torch.Tensor]]], None]
) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def collect(generation: int) -> int:
        assert generation == recovering.OLDEST
        alive.extend(tensor() is not None for tensor in held)
        return 0

    monkeypatch.setattr(recovering.gc, "collect", collect)
    with pytest.raises(Shortage), attempt(STEP, 8, "timing", memory=FakeMemory()):
        fails(held)
    assert alive
    assert not any(alive)


def test_an_error_that_the_caller_is_handling_keeps_its_frames() -> None:
    def own() -> None:
        mine = 7
        raise ValueError(mine)

    try:
        own()
    except ValueError as error:
        with pytest.raises(Shortage):
            fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
        frame = error.__traceback__.tb_next.tb_frame  # type: ignore[union-attr]  # as raised above
        assert frame.f_locals == {"mine": 7}
