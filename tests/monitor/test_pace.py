"""Looks come at counted steps: a run with a monitor repeats itself."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from monitor_cases import batches, loss_of, mlp, train

from batchfinder import TrainingMonitor
from batchfinder.monitor.noise import FEWEST_LOOKS
from batchfinder.monitor.pace import AT_FIRST, LATER, MOST, Pace


def looked_at(monitor: TrainingMonitor, steps: int) -> list[int]:
    """The steps whose batch is handed out in two halves, in a training of ``steps`` steps."""
    model = monitor._gradients._model
    optimizer = monitor._optimizers[0]
    found = []
    for step, batch in enumerate(batches(8, count=steps), start=1):
        parts = list(monitor.parts(batch))
        if len(parts) == 2:
            found.append(step)
        optimizer.zero_grad()
        for part, share in parts:
            (loss_of(model, part) * share).backward()
        optimizer.step()
        monitor.step(1.0)
    return found


def watched(**options: object) -> TrainingMonitor:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return TrainingMonitor(model, optimizer, batch_size=8, **options)


def test_the_first_looks_come_soon_and_later_ones_seldom() -> None:
    found = looked_at(watched(), 1200)
    assert found[:FEWEST_LOOKS] == [AT_FIRST * number for number in range(1, FEWEST_LOOKS + 1)]
    assert set(np.diff(found[FEWEST_LOOKS - 1 :]).tolist()) == {LATER}
    assert len(found) == FEWEST_LOOKS + (1200 - found[FEWEST_LOOKS - 1]) // LATER


def test_looks_become_rarer_with_the_steps_made_but_not_without_end() -> None:
    pace, looks = Pace(None), [0]
    while looks[-1] < 100_000:
        looks.append(pace.after(looks[-1]))
    apart = np.diff(looks)
    late = [gap for look, gap in zip(looks, apart, strict=False) if look > 8 * AT_FIRST]
    expected = [min(max(LATER, look // 32), MOST) for look in looks[FEWEST_LOOKS + 1 : -1]]
    assert late == expected
    assert pace.longest == MOST
    assert Pace(50).longest == 50


@pytest.mark.parametrize("every", [1, 2, 3, 4, 50])
def test_a_given_number_is_obeyed(every: int) -> None:
    assert looked_at(watched(every=every), 120) == list(range(every, 121, every))


def test_a_run_repeats_itself_bit_by_bit_however_long_its_steps_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a batch is cut in two rounding changes: no clock may say at which steps."""

    def end(seconds: float) -> list[torch.Tensor]:
        now = 0.0

        def clock() -> float:
            nonlocal now
            now += seconds * (now % 3 + 1)
            return now

        for name in ("perf_counter", "monotonic", "process_time", "time"):
            monkeypatch.setattr(time, name, clock)
        monitor = watched()
        model = monitor._gradients._model
        train(model, monitor._optimizers[0], monitor, batches(8, count=900))
        return [parameter.detach().clone() for parameter in model.parameters()]

    assert all(map(torch.equal, end(1e-6), end(1.0)))
