"""What a size costs, under a clock that is told the time."""

from __future__ import annotations

import pytest
import torch
from fakes import FakeClock, FakeMemory, FakeSource, FakeStep

from batchfinder.measure import Effort, measure
from batchfinder.results import Measurement
from batchfinder.run import attempt as attempting


def affine(size: int) -> float:
    return 0.010 + 0.001 * size


def test_the_two_parts_of_a_step_are_told_apart() -> None:
    clock = FakeClock()
    step = FakeStep(clock, affine, update_seconds=0.002)
    by_size = {
        m.batch_size: m for m in measure(step, FakeSource(), FakeMemory(), (4,), clock=clock)
    }
    found = by_size[4]
    assert found.forward_backward_seconds == pytest.approx(0.014)
    assert found.update_seconds == pytest.approx(0.002)
    assert found.step_seconds == pytest.approx(0.016)
    assert found.samples_per_second == pytest.approx(4 / 0.016)
    assert found.samples_per_second_low == pytest.approx(found.samples_per_second_high)
    assert not found.unstable


def test_the_clock_is_read_only_after_the_device_is_done() -> None:
    clock, memory = FakeClock(), FakeMemory()
    step = FakeStep(clock, affine)
    measure(step, FakeSource(), memory, (8,), clock=clock)
    assert memory.synchronized >= 3 * len(step.sizes) - 10


def test_a_machine_that_slows_down_does_not_favour_the_first_size() -> None:
    clock = FakeClock()
    step = FakeStep(clock, lambda size: affine(size) * (1 + clock.now / 10))
    found = {
        m.batch_size: m.samples_per_second * affine(m.batch_size) / m.batch_size
        for m in measure(step, FakeSource(), FakeMemory(), (8, 32, 128), clock=clock)
    }
    slowdowns = [found[size] for size in (8, 32, 128)]
    assert max(slowdowns) / min(slowdowns) < 1.15


def test_jitter_shows_in_the_interval_and_the_interval_holds_the_truth() -> None:
    clock = FakeClock()
    step = FakeStep(clock, affine, jitter=0.5)
    effort = Effort(visit_seconds=0.0, most_visits=9)
    (found,) = measure(step, FakeSource(), FakeMemory(), (16,), clock=clock, effort=effort)
    assert found.unstable
    assert found.samples_per_second_low <= 16 / affine(16) <= found.samples_per_second_high


def test_a_size_that_does_not_fit_is_left_out() -> None:
    clock, memory = FakeClock(), FakeMemory(limit=100)
    step = FakeStep(clock, affine, memory=memory)
    found = measure(step, FakeSource(), memory, (64, 128), clock=clock)
    assert [m.batch_size for m in found] == [64]


class Fragmented(FakeStep):
    """At ``at`` samples memory runs out, ``times`` times from the ``after``-th call on."""

    def __init__(self, clock: FakeClock, *, at: int, after: int, times: int) -> None:
        super().__init__(clock, affine)
        self.at, self.after, self.times = at, after, times
        self.cleaned = 0

    def forward_backward(self, batch: int, scale: float = 1.0) -> torch.Tensor:
        if batch == self.at and self.sizes.count(batch) >= self.after and self.times:
            self.times -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward_backward(batch, scale)


@pytest.mark.parametrize("after", [2, 4, 6])
def test_memory_in_fragments_is_tried_once_more_after_a_clean_up(
    after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned, said = [], []
    monkeypatch.setattr(attempting, "recover", lambda step, memory: cleaned.append(memory))
    clock = FakeClock()
    step = Fragmented(clock, at=16, after=after, times=1)
    memory = FakeMemory()
    found = measure(step, FakeSource(), memory, (4, 16, 64), clock=clock, say=said.append)
    assert {4, 16, 64} <= {m.batch_size for m in found}
    assert (step.times, cleaned, said) == (0, [memory], [])


@pytest.mark.parametrize("after", [2, 4, 6])
@pytest.mark.parametrize("at", [4, 16, 64])
def test_a_size_that_runs_out_while_it_is_timed_is_left_out_and_said(at: int, after: int) -> None:
    clock, said = FakeClock(), []
    step = Fragmented(clock, at=at, after=after, times=10**6)
    found = measure(step, FakeSource(), FakeMemory(), (4, 16, 64), clock=clock, say=said.append)
    left = {m.batch_size for m in found}
    assert at not in left
    assert {4, 16, 64} - {at} <= left
    (sentence,) = said
    assert sentence.startswith(f"batch size {at} ran out of memory while it was timed")


def test_a_size_that_ran_out_in_its_trial_is_said_too() -> None:
    clock, memory, said = FakeClock(), FakeMemory(limit=100), []
    step = FakeStep(clock, affine, memory=memory)
    measure(step, FakeSource(), memory, (64, 128), clock=clock, say=said.append)
    assert [each.split()[2] for each in said] == ["128"]


def test_a_peak_that_another_process_disturbed_is_taken_again() -> None:
    class Shared(FakeMemory):
        """Another process takes a gigabyte during the first trial."""

        calls = 0

        def other_processes_bytes(self) -> int:
            self.calls += 1
            return 10**9 * (self.calls > 1)

        def peak_bytes(self) -> int:
            return 10**6 if self.calls > 2 else 10**9

    clock, memory = FakeClock(), Shared(limit=10**10)
    (found,) = measure(FakeStep(clock, affine), FakeSource(), memory, (8,), clock=clock)
    assert found.peak_bytes == 10**6


def test_a_bug_while_a_size_is_timed_is_raised_as_itself() -> None:
    class Buggy(FakeStep):
        def update(self) -> None:
            if len(self.sizes) > 3:
                raise ValueError("mine")

    with pytest.raises(ValueError, match="mine") as caught:
        measure(Buggy(FakeClock(), affine), FakeSource(), FakeMemory(), (8,))
    assert any("in timing at batch size 8" in note for note in caught.value.__notes__)


def test_the_budget_is_kept_once_every_size_was_seen() -> None:
    clock = FakeClock()
    step = FakeStep(clock, lambda size: 1.0)
    found = measure(
        step, FakeSource(), FakeMemory(), (1, 2, 4), clock=clock, effort=Effort(budget_seconds=5)
    )
    assert {1, 2, 4} <= {m.batch_size for m in found}
    assert all(m.repeats >= 1 for m in found)
    assert clock.now < 20


def test_the_loader_is_timed_apart_and_scaled_beyond_its_budget() -> None:
    clock = FakeClock()
    source = FakeSource(clock, length=10**6, seconds_per_sample=0.01)
    step = FakeStep(clock, affine)
    found = {m.batch_size: m for m in measure(step, source, FakeMemory(), (4, 4096), clock=clock)}
    assert found[4].loader_seconds == pytest.approx(0.04)
    assert found[4096].loader_seconds == pytest.approx(40.96)


def test_every_measurement_is_told_to_the_observer() -> None:
    clock, seen = FakeClock(), []
    step = FakeStep(clock, affine)
    found = measure(step, FakeSource(), FakeMemory(), (4, 8), clock=clock, observe=seen.append)
    assert tuple(seen) == found
    assert all(isinstance(event, Measurement) for event in seen)
    assert step.rate == 0.0


def test_a_short_budget_leaves_the_largest_sizes_untimed_but_never_fewer_than_three() -> None:
    clock = FakeClock()
    step = FakeStep(clock, lambda size: 0.1 * size)
    effort = Effort(budget_seconds=2.0, may_leave_out=True)
    sizes = (1, 2, 4, 8, 16, 32, 64)
    found = measure(step, FakeSource(), FakeMemory(), sizes, clock=clock, effort=effort)
    measured = {m.batch_size for m in found}
    assert {1, 2, 4} <= measured
    assert 64 not in measured
