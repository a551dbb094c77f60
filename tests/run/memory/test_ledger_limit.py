"""The limit after it was passed once: it stays where it was, and what failed takes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from memory_cases import CPU, FLOAT, Made, linear_training

from batchfinder.protocols import Setup
from batchfinder.results import Outcome
from batchfinder.run.memory import backend_for, memory_limit
from batchfinder.run.memory.ledger import Ledger
from batchfinder.run.trial import run_trial

KIB = 1024
MIB = 1024 * KIB


def of(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.uint8)


def test_the_limit_holds_after_it_was_passed_once() -> None:
    with memory_limit(10 * MIB) as memory:
        with pytest.raises(torch.OutOfMemoryError):
            of(100 * MIB)
        with pytest.raises(torch.OutOfMemoryError):
            of(50 * MIB)
        with pytest.raises(torch.OutOfMemoryError):
            of(10 * MIB + 1)
        of(10 * MIB)
        assert memory.peak_bytes() == 100 * MIB


def test_what_failed_is_not_charged_while_its_error_is_kept() -> None:
    with memory_limit(KIB) as memory:
        kept = of(KIB - 8)
        with pytest.raises(torch.OutOfMemoryError) as caught:
            kept.repeat(4) + of(8)
        assert memory.held_bytes() == KIB - 8
        assert of(8).numel() == 8, caught


def test_inside_the_handler_of_the_error_smaller_work_goes_on() -> None:
    with memory_limit(KIB):
        try:
            of(100 * KIB)
        except torch.OutOfMemoryError:
            assert of(KIB).numel() == KIB


def test_many_failures_in_a_row_leave_nothing_charged() -> None:
    errors = []
    with memory_limit(KIB) as memory:
        for count in (KIB + 1, 2 * KIB, 7 * KIB):
            with pytest.raises(torch.OutOfMemoryError) as caught:
                of(count)
            errors.append(caught.value)
            assert memory.held_bytes() == 0
        assert memory.peak_bytes() == 7 * KIB, errors


GROWTHS: dict[str, Callable[[torch.Tensor], object]] = {
    "of a tensor": lambda tensor: tensor.resize_(3 * KIB),
    "of a storage": lambda tensor: tensor.untyped_storage().resize_(3 * KIB),
}


@pytest.mark.parametrize("name", GROWTHS)
def test_a_growth_that_failed_is_not_charged(name: str) -> None:
    with Ledger(CPU, 2 * KIB) as ledger:
        tensor = of(KIB)
        with pytest.raises(torch.OutOfMemoryError, match="in use 1024 bytes"):
            GROWTHS[name](tensor)
        assert (ledger.current, ledger.peak) == (KIB, 3 * KIB)
        assert of(KIB).numel() == KIB


def test_a_storage_whose_growth_failed_is_as_it_was() -> None:
    with Ledger(CPU, 2 * KIB):
        tensor = torch.arange(256, dtype=torch.float32)
        with pytest.raises(torch.OutOfMemoryError):
            tensor.untyped_storage().resize_(3 * KIB)
        assert tensor.untyped_storage().nbytes() == KIB
    assert tensor.sum() == 255 * 128


def test_work_in_place_above_a_lowered_limit_takes_nothing() -> None:
    with Ledger(CPU) as ledger:
        tensor = of(KIB)
        ledger.limit = KIB // 2
        tensor.add_(1)
        with pytest.raises(torch.OutOfMemoryError):
            of(1)


def test_a_peak_set_above_the_limit_loosens_nothing() -> None:
    with Ledger(CPU, KIB) as ledger:
        ledger.peak = 100 * KIB
        with pytest.raises(torch.OutOfMemoryError):
            of(2 * KIB)
        assert ledger.peak == 100 * KIB


def test_a_failed_backward_says_how_far_it_got_and_the_next_trial_starts_anew() -> None:
    step, source = linear_training(100)
    memory = backend_for(CPU, "200KB")
    small = run_trial(Setup(step, source, memory), 4).peak_bytes
    failed = run_trial(Setup(step, source, memory), 400)
    assert failed.outcome is Outcome.OUT_OF_MEMORY
    assert failed.peak_bytes is not None and failed.peak_bytes > 200_000
    assert run_trial(Setup(step, source, memory), 4).peak_bytes == small


def test_a_step_that_tries_again_smaller_keeps_the_limit() -> None:
    """As a user's own loop does that halves the batch at the error."""
    step, _ = linear_training(10)
    loss = step.loss
    tried: list[int] = []

    def halving(model: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        rows = len(batch[0])
        while True:
            try:
                tried.append(rows)
                torch.zeros(rows * 250)
                return loss(model, (batch[0][:1], batch[1][:1]))
            except torch.OutOfMemoryError:
                rows //= 2

    step.loss = halving
    source = Made(lambda size: (torch.zeros(size, 10), torch.zeros(size, 10)))
    trial = run_trial(Setup(step, source, backend_for(CPU, 100_000)), 400, steps=1)
    largest = (100_000 - 2 * 400 * 10 * FLOAT) // (250 * FLOAT)
    assert tried == [400, 200, 100, 50] and 50 <= largest < 100
    assert trial.outcome is Outcome.OUT_OF_MEMORY  # the size that was tried did not fit
