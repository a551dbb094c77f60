"""A call's budget where several ranks share a clock: what is asked of it, and what is not."""

from __future__ import annotations

import pytest
from fakes import FakeClock

from batchfinder import session
from batchfinder.session import Budget


def test_the_own_time_left_sends_no_message_while_something_is_done_aside() -> None:
    own, readings = FakeClock(), list[float]()

    def shared() -> float:  # each reading is a message to the other ranks
        readings.append(2.0 * own())
        return readings[-1]

    budget = Budget(None, shared, shared(), has_default=True, own_clock=own)
    with budget.aside():
        own.pass_by(30.0)
        before = len(readings)
        assert budget.seconds_left_here() == pytest.approx(session.DEFAULT_SECONDS)
        assert len(readings) == before
        own.pass_by(10.0)
    assert budget.beside_seconds == pytest.approx(80.0)
    with pytest.raises(ValueError, match="a race"), budget.aside():
        before = len(readings)
        raise ValueError("a race")
    assert len(readings) == before
    assert budget.seconds_left_here() == pytest.approx(100.0)
