"""What a size costs, under a clock that is told the time."""

from __future__ import annotations

import itertools

import pytest
import torch
from fakes import FakeClock, FakeMemory, FakeSource, FakeStep
from recommend_cases import recommended

from batchfinder.measure import Effort, measure
from batchfinder.measure.timed import AS_IT_WAITS
from batchfinder.protocols import Setup
from batchfinder.results import Measurement, Note, Outcome, Trial
from batchfinder.run import attempt as attempting
from batchfinder.timing import unbeaten
from batchfinder.wording import Caveat


def affine(size: int) -> float:
    return 0.010 + 0.001 * size


def test_the_two_parts_of_a_step_are_told_apart() -> None:
    clock = FakeClock()
    step = FakeStep(clock, affine, update_seconds=0.002)
    by_size = {
        m.batch_size: m for m in measure(Setup(step, FakeSource(), FakeMemory()), (4,), clock=clock)
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
    measure(Setup(step, FakeSource(), memory), (8,), clock=clock)
    assert memory.synchronized >= 3 * len(step.sizes) - 10


def test_a_machine_that_slows_down_does_not_favour_the_first_size() -> None:
    clock = FakeClock()
    step = FakeStep(clock, lambda size: affine(size) * (1 + clock.now / 10))
    found = {
        m.batch_size: m.samples_per_second * affine(m.batch_size) / m.batch_size
        for m in measure(Setup(step, FakeSource(), FakeMemory()), (8, 32, 128), clock=clock)
    }
    slowdowns = [found[size] for size in (8, 32, 128)]
    assert max(slowdowns) / min(slowdowns) < 1.15


def test_jitter_shows_in_the_interval_and_the_interval_holds_the_truth() -> None:
    clock = FakeClock()
    step = FakeStep(clock, affine, jitter=0.5)
    effort = Effort(visit_seconds=0.0, most_visits=9)
    (found,) = measure(Setup(step, FakeSource(), FakeMemory()), (16,), clock=clock, effort=effort)
    assert found.unstable
    assert found.samples_per_second_low <= 16 / affine(16) <= found.samples_per_second_high


def test_a_size_that_does_not_fit_is_left_out() -> None:
    clock, memory = FakeClock(), FakeMemory(limit=100)
    step = FakeStep(clock, affine, memory=memory)
    found = measure(Setup(step, FakeSource(), memory), (64, 128), clock=clock)
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
    effort = Effort(visit_seconds=0.05)
    setup = Setup(step, FakeSource(), memory)
    found = measure(setup, (4, 16, 64), clock=clock, say=said.append, effort=effort)
    assert {4, 16, 64} <= {m.batch_size for m in found}
    assert (step.times, cleaned, said) == (0, [memory], [])


@pytest.mark.parametrize("after", [2, 4, 6])
@pytest.mark.parametrize("at", [4, 16, 64])
def test_a_size_that_runs_out_while_it_is_timed_is_left_out_and_said(at: int, after: int) -> None:
    clock, said = FakeClock(), []
    step = Fragmented(clock, at=at, after=after, times=10**6)
    found = measure(
        Setup(step, FakeSource(), FakeMemory()),
        (4, 16, 64),
        clock=clock,
        effort=Effort(fewest_visits=6, least_visits=6),
        say=said.append,
    )
    left = {m.batch_size for m in found}
    assert at not in left
    assert {4, 16, 64} - {at} <= left
    (sentence,) = said
    assert sentence.startswith(f"batch size {at} ran out of memory twice during timing")


def test_a_size_that_ran_out_in_its_trial_is_said_too() -> None:
    clock, memory, said = FakeClock(), FakeMemory(limit=100), []
    step = FakeStep(clock, affine, memory=memory)
    measure(Setup(step, FakeSource(), memory), (64, 128), clock=clock, say=said.append)
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
    (found,) = measure(Setup(FakeStep(clock, affine), FakeSource(), memory), (8,), clock=clock)
    assert found.peak_bytes == 10**6


def test_a_bug_while_a_size_is_timed_is_raised_as_itself() -> None:
    class Buggy(FakeStep):
        def update(self) -> None:
            if len(self.sizes) > 3:
                raise ValueError("mine")

    with pytest.raises(ValueError, match="mine") as caught:
        measure(Setup(Buggy(FakeClock(), affine), FakeSource(), FakeMemory()), (8,))
    assert any("in timing at batch size 8" in note for note in caught.value.__notes__)


def test_the_budget_is_kept_once_every_size_was_seen() -> None:
    clock = FakeClock()
    step = FakeStep(clock, lambda size: 0.6 + 0.2 * size)
    found = measure(
        Setup(step, FakeSource(), FakeMemory()),
        (1, 2, 4),
        clock=clock,
        effort=Effort(budget_seconds=5),
    )
    assert {1, 2, 4} <= {m.batch_size for m in found}
    assert all(m.repeats >= 1 for m in found)
    assert clock.now < 20


def test_the_loader_is_timed_apart_and_scaled_beyond_its_budget() -> None:
    clock = FakeClock()
    source = FakeSource(clock, length=10**6, seconds_per_sample=0.01)
    step = FakeStep(clock, affine)
    found = {
        m.batch_size: m for m in measure(Setup(step, source, FakeMemory()), (4, 4096), clock=clock)
    }
    assert found[4].loader_seconds == pytest.approx(0.04)
    assert found[4096].loader_seconds == pytest.approx(40.96)


@pytest.mark.parametrize(("of_a_sample", "share"), [(0.0, 1.0), (0.1, AS_IT_WAITS)])
def test_where_training_waits_for_the_loader_less_is_timed(
    of_a_sample: float, share: float
) -> None:
    """And why is said: no size trains faster before the loader is mended."""
    clock, seen = FakeClock(), []
    source = FakeSource(clock, length=10**6, seconds_per_sample=of_a_sample)
    step = FakeStep(clock, affine, jitter=0.5)
    setup = Setup(step, source, FakeMemory())
    began = clock.now
    measure(
        setup,
        (4, 64),
        clock=clock,
        expected=affine,
        effort=Effort(budget_seconds=10, tight=1e-6, most_visits=10**6),
        observe=seen.append,
        loading=lambda source, sizes, **rest: {size: of_a_sample * size for size in sizes},
    )
    assert clock.now - began == pytest.approx(10 * share, rel=0.1)
    told = [each.text.code for each in seen if isinstance(each, Note)]
    assert told == ["measure.waits" if share < 1 else "measure.stopped"]


def test_every_measurement_is_told_to_the_observer() -> None:
    clock, seen = FakeClock(), []
    step = FakeStep(clock, affine)
    found = measure(
        Setup(step, FakeSource(), FakeMemory()), (4, 8), clock=clock, observe=seen.append
    )
    why, *measured = seen
    assert tuple(measured) == found
    assert all(isinstance(event, Measurement) for event in measured)
    assert isinstance(why, Note) and isinstance(why.text, Caveat)
    assert why.text.code == "measure.settled"
    assert step.rate == 0.0


def test_a_short_budget_leaves_the_largest_sizes_untimed_but_never_fewer_than_three() -> None:
    clock = FakeClock()
    step = FakeStep(clock, lambda size: 0.1 * size)
    effort = Effort(budget_seconds=2.0)
    sizes = (1, 2, 4, 8, 16, 32, 64)
    found = measure(Setup(step, FakeSource(), FakeMemory()), sizes, clock=clock, effort=effort)
    measured = {m.batch_size for m in found}
    assert {1, 2, 4} <= measured
    assert 64 not in measured


# Which sizes are timed, and how often ------------------------------------------------------------

LAUNCHES = 0.007
"""Seconds that a step takes at the least on an H200."""


def flat_then_line(size: int) -> float:
    """A step of a ResNet-50 on an H200: bound by launches up to 32, then 0.22 ms a sample."""
    return max(LAUNCHES, 0.00022 * size)


POWERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def test_sizes_that_cannot_win_are_not_timed_and_are_said_in_one_line() -> None:
    clock, said = FakeClock(), []
    step = FakeStep(clock, flat_then_line)
    found = measure(
        Setup(step, FakeSource(), FakeMemory()), POWERS, first=64, clock=clock, say=said.append
    )
    assert min(m.batch_size for m in found) == 32
    assert {32, 64, 128, 256, 512} <= {m.batch_size for m in found}
    (line,) = said
    assert line.code == "measure.floor"
    assert line == (
        "batch sizes 1, 2, 4, 8, 16 were skipped: in the first timing the shortest step took 7 ms, "
        "about as long as at 32"
    )


@pytest.mark.parametrize("noise_scale", [0.0, 1.0, 60.0, 4000.0, 10.0**9])
def test_no_noise_scale_lets_a_beaten_size_win(noise_scale: float) -> None:
    seconds = {size: flat_then_line(size) for size in POWERS}
    times = {size: taken * (1 + noise_scale / size) for size, taken in seconds.items()}
    kept = unbeaten(seconds)
    assert kept == {32}  # then samples take as long at every size: no larger one gains anything
    assert min(times[size] for size in kept) <= 1.05 * min(times.values())


@pytest.mark.parametrize("noise_scale", [0.01, 1.0, 30.0, 1000.0, 10.0**9])
@pytest.mark.parametrize("efficiency", [0.5, 0.8, 0.95])
def test_what_is_left_holds_the_best_at_every_noise_scale(
    noise_scale: float, efficiency: float
) -> None:
    seconds = {size: 0.002 + 0.0001 * size**efficiency for size in POWERS}
    times = {size: taken * (1 + noise_scale / size) for size, taken in seconds.items()}
    kept = unbeaten(seconds)
    assert min(times[size] for size in kept) <= 1.05 * min(times.values())


def test_the_users_own_size_is_timed_though_it_cannot_win() -> None:
    clock = FakeClock()
    step = FakeStep(clock, flat_then_line)
    found = measure(Setup(step, FakeSource(), FakeMemory()), POWERS, first=8, clock=clock)
    assert [m.batch_size for m in found][:3] == [8, 24, 32]  # 24 is a half-step below the knee


def test_timing_begins_at_the_users_own_size_and_works_outward() -> None:
    clock = FakeClock()
    step = FakeStep(clock, affine)
    measure(Setup(step, FakeSource(), FakeMemory()), POWERS, first=64, clock=clock)
    order = list(dict.fromkeys(step.sizes))
    assert order[:6] == [64, 1, 128, 32, 256, 16]  # the smallest shows the least that a step takes


def test_a_hopeless_size_never_starves_a_likely_one() -> None:
    """4,096 and more take 11 to 17 s a step: they are left out, and the own size is timed often."""
    clock, said = FakeClock(), []

    def seconds(size: int) -> float:
        return 0.004 + 0.003 * size

    step = FakeStep(clock, seconds, jitter=0.1)
    sizes = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
    found = {
        m.batch_size: m
        for m in measure(
            Setup(step, FakeSource(), FakeMemory()),
            sizes,
            first=64,
            expected=seconds,
            effort=Effort(budget_seconds=15.0),
            clock=clock,
            say=said.append,
        )
    }
    assert found[64].repeats >= 4
    assert max(found) == 256
    assert [each.code for each in said] == ["measure.slow"]
    assert said[0] == (
        "there was too little time to measure batch sizes of 512 and more: a step would take 1.54 s"
    )
    assert clock.now <= 20


def test_the_size_of_the_user_is_timed_however_slow_and_not_said_to_be_left_out() -> None:
    clock, said = FakeClock(), []
    step = FakeStep(clock, lambda size: 0.1 * size)
    found = measure(
        Setup(step, FakeSource(), FakeMemory()), (1, 8, 16, 32), first=16, clock=clock,
        expected=lambda size: 0.1 * size, say=said.append,
    )  # fmt: skip
    assert max(each.batch_size for each in found) == 16
    assert said[0] == (
        "there was too little time to measure batch sizes of 8 and more (except your own 16): "
        "a step would take 800 ms"
    )


def test_a_size_that_was_tried_already_needs_no_trial() -> None:
    def steps(known: dict[int, Trial]) -> tuple[int, int | None]:
        clock = FakeClock()
        step = FakeStep(clock, lambda size: 0.01 * size)
        found = measure(Setup(step, FakeSource(), FakeMemory()), (8,), clock=clock, known=known)
        return len(step.sizes), found[0].peak_bytes

    tried = Trial(8, Outcome.FITS, peak_bytes=123)
    failed = Trial(8, Outcome.OUT_OF_MEMORY, peak_bytes=456)
    usual, peak = steps({})
    fewer, told = steps({8: tried})
    assert fewer < usual and told == 123
    assert steps({8: failed}) == (usual, peak)


def test_launch_bound_steps_that_scatter_are_told_by_the_fastest() -> None:
    """Up to 16 a step takes 10 ms at the least, and up to half as much more."""
    clock, said = FakeClock(), []
    jitter = itertools.cycle([1.0, 1.3, 1.5, 1.0, 1.2])
    step = FakeStep(clock, lambda size: max(0.01, size * 0.0006) * next(jitter))
    found = measure(
        Setup(step, FakeSource(), FakeMemory()), (1, 2, 4, 8, 16, 32, 64), first=32, clock=clock,
        say=said.append,
    )  # fmt: skip
    assert min(each.batch_size for each in found) >= 8
    assert any(each.code == "measure.floor" for each in said)


def test_a_size_that_cannot_win_is_not_visited_again() -> None:
    """Samples take no less time from 64 on: larger batches have their time, and no more."""
    clock = FakeClock()
    step = FakeStep(clock, lambda size: max(0.05, 0.001 * size), jitter=0.02)
    found = {
        m.batch_size: m.repeats
        for m in measure(
            Setup(step, FakeSource(), FakeMemory()), (16, 32, 64, 128, 256), clock=clock
        )
    }
    assert found[256] == 2 < found[64]


def test_a_time_taken_once_is_not_believed_to_be_exact() -> None:
    clock = FakeClock()
    step = FakeStep(clock, affine)
    effort = Effort(budget_seconds=0.01)
    found = measure(
        Setup(step, FakeSource(), FakeMemory()), (8, 16, 32), clock=clock, effort=effort
    )
    assert {m.repeats for m in found} == {1, 2}
    for each in found:
        if each.repeats == 1:
            assert each.samples_per_second_high / each.samples_per_second >= 1.1
            assert each.samples_per_second / each.samples_per_second_low >= 1.1


def test_what_slows_a_whole_round_is_not_in_the_times() -> None:
    """Other work slows the machine threefold for two seconds of every five."""
    clock = FakeClock()

    def seconds(size: int) -> float:
        return affine(size) * (3.0 if clock.now % 5 > 3 else 1.0)

    effort = Effort(budget_seconds=30.0, most_visits=40)
    sizes = (8, 16, 32, 64, 128, 256)
    found = measure(
        Setup(FakeStep(clock, seconds, jitter=0.05), FakeSource(), FakeMemory()),
        sizes,
        clock=clock,
        effort=effort,
    )
    slowness = [m.step_seconds / affine(m.batch_size) for m in found]
    assert max(slowness) / min(slowness) < 1.05


def test_a_quiet_machine_is_timed_in_few_rounds_and_a_busy_one_in_many() -> None:
    repeats = []
    for jitter in (0.01, 0.4):
        clock = FakeClock()
        step = FakeStep(clock, affine, jitter=jitter)
        found = measure(Setup(step, FakeSource(), FakeMemory()), (8, 32, 128), first=8, clock=clock)
        repeats.append({m.batch_size: m.repeats for m in found}[8])
    assert repeats[0] <= Effort().least_visits + 2 < repeats[1]


def test_the_largest_size_that_cannot_be_chosen_is_timed_for_show_alone() -> None:
    clock = FakeClock()
    step = FakeStep(clock, affine, jitter=0.05)
    sizes = (8, 32, 64, 128)
    found = measure(Setup(step, FakeSource(), FakeMemory()), sizes, first=8, most=64, clock=clock)
    repeats = {m.batch_size: m.repeats for m in found}
    assert repeats[128] == Effort().fewest_visits < repeats[64]


def test_it_is_said_why_timing_stopped() -> None:
    clock, seen = FakeClock(), []
    step = FakeStep(clock, affine, jitter=0.9)
    effort = Effort(budget_seconds=2.0, visit_seconds=0.0)
    measure(
        Setup(step, FakeSource(), FakeMemory()),
        (8, 16, 32),
        clock=clock,
        effort=effort,
        observe=seen.append,
    )
    assert seen[0].text.code in ("measure.stopped", "measure.settled")
    assert seen[0].text.numbers["of"] == len(seen) - 1


def test_every_visit_is_told() -> None:
    clock = FakeClock()
    told: list[tuple[int, int]] = []
    found = measure(
        Setup(FakeStep(clock, affine), FakeSource(), FakeMemory()),
        (4, 16, 64),
        clock=clock,
        advance=lambda samples, steps=1: told.append((samples, steps)),
    )
    assert sum(steps for _, steps in told) == sum(each.repeats for each in found)
    assert all(samples for samples, _ in told)


@pytest.mark.parametrize("tick", [0.0, -1e-3])
def test_a_clock_that_stands_still_or_is_set_back_leaves_times_to_choose_by(tick: float) -> None:
    readings = itertools.count(1000.0, tick)
    found = measure(
        Setup(FakeStep(FakeClock(), affine), FakeSource(), FakeMemory()),
        (8, 16, 32, 64),
        effort=Effort(most_visits=4),
        clock=lambda: next(readings),
        loading=lambda *given, **more: {},
    )
    assert all(each.step_seconds > 0 and each.update_seconds >= 0 for each in found)
    assert recommended(list(found), base_batch=8).plan.global_batch >= 8
