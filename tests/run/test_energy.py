"""Joules per sample from a replayed counter of NVML, and the objective that goes by them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fakes import FakeClock, FakeMemory, FakeSource, FakeStep

from batchfinder.errors import InvalidArgument
from batchfinder.measure import Effort, measure
from batchfinder.protocols import Setup
from batchfinder.recommend import least_energy
from batchfinder.results import BatchPlan, Candidate
from batchfinder.run.energy import EnergyCounter, NvmlEnergy, energy_counter

IDLE_WATTS, JOULES_A_SAMPLE = 80.0, 0.25


class NvmlError(Exception):
    pass


class CountingNvml:
    """``pynvml`` on a GPU that draws ``IDLE_WATTS``, and so many joules more for each sample.

    The counter moves every ``period`` seconds only, as a real one does.
    """

    NVMLError = NvmlError

    def __init__(self, clock: FakeClock, step: FakeStep, period: float = 0.0) -> None:
        self.clock, self.step, self.period = clock, step, period
        self.tells, self.open = True, 0
        self.shown: tuple[float, float] = (0.0, 0.0)

    def nvmlInit(self) -> None:  # noqa: N802  # NVML's name
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802  # NVML's name
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802  # NVML's name
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802  # same
        if not self.tells:
            raise NvmlError
        if self.clock.now - self.shown[0] >= self.period:
            drawn = IDLE_WATTS * self.clock.now + JOULES_A_SAMPLE * sum(self.step.sizes)
            self.shown = (self.clock.now, drawn)
        return int(1000 * self.shown[1])


def seconds(size: int) -> float:
    return 0.010 + 0.001 * size


def measured(period: float = 0.0, **options: Any) -> tuple[Any, CountingNvml]:
    clock = FakeClock()
    step = FakeStep(clock, seconds)
    nvml = CountingNvml(clock, step, period)
    counter: EnergyCounter = NvmlEnergy("GPU-1", nvml)
    found = measure(
        Setup(step, FakeSource(), FakeMemory()),
        (16, 64, 256),
        energy=counter,
        clock=clock,
        sleep=clock.pass_by,
        **options,
    )
    return {each.batch_size: each for each in found}, nvml


def true_joules(size: int) -> float:
    return JOULES_A_SAMPLE + IDLE_WATTS * seconds(size) / size


def test_joules_per_sample_and_the_idle_draw_are_those_of_the_counter() -> None:
    found, nvml = measured()
    for size, each in found.items():
        assert each.energy is not None
        assert each.energy.joules_per_sample == pytest.approx(true_joules(size), rel=0.01)
        assert each.energy.idle_watts == pytest.approx(IDLE_WATTS, rel=0.01)
    assert nvml.open == 0


def test_a_counter_that_moves_in_steps_is_read_over_long_windows() -> None:
    found, _ = measured(
        period=0.02, effort=Effort(energy_visit_seconds=0.5, energy_budget_seconds=6.0)
    )
    for size, each in found.items():
        low, high = each.energy.joules_per_sample_low, each.energy.joules_per_sample_high
        assert 0.9 * true_joules(size) <= low <= high <= 1.1 * true_joules(size)


@pytest.mark.parametrize("pace", [1.0, 20.0])
def test_reading_it_takes_a_few_seconds(pace: float) -> None:
    def taken(energy: bool) -> float:
        clock = FakeClock()
        step = FakeStep(clock, lambda size: pace * seconds(size))
        counter = NvmlEnergy("GPU-1", CountingNvml(clock, step)) if energy else None
        measure(Setup(step, FakeSource(), FakeMemory()), (16, 64, 256), energy=counter, clock=clock,
                sleep=clock.pass_by)  # fmt: skip
        return clock.now

    effort = Effort()
    one_round = sum(effort.energy_visit_seconds + pace * seconds(size) for size in (16, 64, 256))
    assert 0 < taken(True) - taken(False) <= effort.energy_budget_seconds + one_round


def test_a_device_that_does_not_tell_has_no_energy() -> None:
    clock = FakeClock()
    step = FakeStep(clock, seconds)
    nvml = CountingNvml(clock, step)
    nvml.tells = False
    assert NvmlEnergy("GPU-1", nvml).joules() is None
    assert nvml.open == 0
    assert energy_counter(torch.device("cpu")) is None
    (found,) = measure(Setup(step, FakeSource(), FakeMemory()), (8,), clock=clock)
    assert found.energy is None


def candidate(size: int, samples: float, joules: float | None) -> Candidate:
    return Candidate(BatchPlan(size), 1.0, samples, 0.1, joules_per_sample=joules)


def test_least_energy_is_joules_times_samples() -> None:
    offered = [candidate(16, 1.0, 1.0), candidate(64, 1.1, 0.5), candidate(256, 2.0, 0.4)]
    assert least_energy(offered).plan.global_batch == 64
    near = [candidate(16, 1.0, 0.51), candidate(64, 1.0, 0.5)]
    assert least_energy(near).plan.global_batch == 16  # within 3%, the smaller


def test_without_a_noise_scale_least_energy_goes_by_the_sample() -> None:
    offered = [candidate(16, float("nan"), 1.0), candidate(256, float("nan"), 0.4)]
    assert least_energy(offered).plan.global_batch == 256


def test_least_energy_wants_a_device_that_tells() -> None:
    with pytest.raises(InvalidArgument, match="choose another objective"):
        least_energy([candidate(16, 1.0, None)])
