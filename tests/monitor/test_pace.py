"""Looks are as frequent as their measured cost allows, and no clock is read where that is given."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monitor_cases import batches, loss_of, mlp

from batchfinder import TrainingMonitor
from batchfinder.monitor.noise import FEWEST_LOOKS
from batchfinder.monitor.pace import LONGEST, LOOKS_SHARE, SHORTEST, USUAL, Pace
from batchfinder.monitor.ranks import ALONE


class Clock:
    """Seconds that pass only where the training says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def looks_of(
    price: float, steps: int, ordinary: float = 0.01, pauses: dict[int, float] | None = None
) -> list[int]:
    """The steps looked at where a look takes the time of ``price`` steps more."""
    clock = Clock()
    pace = Pace(None, clock, ALONE)
    look, found = 0, []
    for step in range(1, steps + 1):
        clock.now += ordinary + (pauses or {}).get(step, 0.0)
        if step == look and look:
            clock.now += price * ordinary
            found.append(step)
        if step == look + pace.updates - 1:
            look = pace.ends(look, step)
        if step + 1 == look:
            pace.begins(step)
    return found


@pytest.mark.parametrize("price", [0.05, 0.3, 1.0, 2.5, 6.0])
def test_looks_take_their_share_of_the_time(price: float) -> None:
    steps = 20_000
    found = looks_of(price, steps)
    floor = steps / LONGEST + FEWEST_LOOKS
    assert len(found) * price <= max(LOOKS_SHARE * steps, floor * price)
    assert len(found) >= min(0.9 * LOOKS_SHARE * steps / price, steps / (SHORTEST + 2))


def test_the_first_looks_come_whatever_they_cost() -> None:
    found = looks_of(100.0, 5000)
    assert found[:FEWEST_LOOKS] == [USUAL * number for number in range(1, FEWEST_LOOKS + 1)]
    assert np.diff(found[FEWEST_LOOKS:]).tolist() == [LONGEST] * (len(found) - FEWEST_LOOKS - 1)


def test_looks_that_cost_nothing_are_as_near_as_they_may_be() -> None:
    gaps = set(np.diff(looks_of(0.0, 3000)).tolist())
    assert gaps == {SHORTEST}


def test_a_pause_between_two_steps_is_not_the_price_of_looks() -> None:
    validation = dict.fromkeys(range(100, 20_000, 100), 3.0)
    plain, paused = looks_of(1.0, 20_000), looks_of(1.0, 20_000, pauses=validation)
    assert len(paused) == pytest.approx(len(plain), rel=0.5)


def test_ranks_go_by_the_slowest() -> None:
    class Other:
        """A second rank, on which a look takes the time of four steps."""

        alone = False

        def gather(self, rows: np.ndarray) -> np.ndarray:
            return np.concatenate([rows, np.array([[4.0]])])

    def gaps(ranks: object) -> list[int]:
        clock = Clock()
        pace, look = Pace(None, clock, ranks), 0
        found = []
        for step in range(1, 6000):
            clock.now += 0.01 + 0.01 * (step == look)
            if step == look + pace.updates - 1:
                look = pace.ends(look, step)
                found.append(look)
            if step + 1 == look:
                pace.begins(step)
        return found

    alone, together = gaps(ALONE), gaps(Other())
    assert len(together) < len(alone) / 2
    assert together == gaps(Other()), "the same again on every rank"


@pytest.mark.parametrize("every", [1, 2, 3, 4, 50])
def test_a_given_number_is_obeyed_without_a_clock(every: int) -> None:
    def no_clock() -> float:
        pytest.fail("a clock was read")

    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    monitor = TrainingMonitor(model, optimizer, batch_size=8, every=every, clock=no_clock)
    looked = []
    for step, batch in enumerate(batches(8, count=120), start=1):
        parts = list(monitor.parts(batch))
        if len(parts) == 2:
            looked.append(step)
        optimizer.zero_grad()
        for part, share in parts:
            (loss_of(model, part) * share).backward()
        optimizer.step()
        monitor.step(1.0)
    assert looked == list(range(every, 121, every))


def test_the_monitor_spaces_its_looks_by_the_clock() -> None:
    def looked(price: float) -> list[int]:
        clock = Clock()
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        monitor = TrainingMonitor(model, optimizer, batch_size=8, clock=clock)
        found = []
        for step, batch in zip(itertools.count(1), batches(8, count=900), strict=False):
            parts = list(monitor.parts(batch))
            clock.now += 0.01
            if len(parts) == 2:
                found.append(step)
                clock.now += price
            optimizer.zero_grad()
            for part, share in parts:
                (loss_of(model, part) * share).backward()
            optimizer.step()
            monitor.step(1.0 / step)
        assert [reading.step - 2 for reading in monitor.history.readings] == found[
            : len(monitor.history.readings)
        ]
        return found

    cheap, dear = looked(0.001), looked(0.1)
    assert len(dear) == FEWEST_LOOKS
    assert np.diff(cheap).min() == SHORTEST
    assert cheap == looked(0.001)
