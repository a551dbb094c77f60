"""What is told while one step or one read takes long."""

from __future__ import annotations

import io
import re
import threading
from itertools import pairwise
from typing import Any

import pytest
import torch
from fakes import FakeClock
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from batchfinder import max_batch_size, session
from batchfinder.meter import QUIET_SECONDS, Waiting
from batchfinder.outcomes import Stage
from batchfinder.progress import StreamRows
from batchfinder.results import Event, Note, Progress, StageStarted


def waiting() -> tuple[Waiting, FakeClock, list[Any]]:
    clock, heard = FakeClock(), []
    return Waiting(heard.append, clock), clock, heard


def test_events_are_handed_on_as_they_are() -> None:
    tell, _, heard = waiting()
    events: list[Event] = [StageStarted(Stage.PROBE), Note("a")]
    for event in events:
        tell(event)
    assert heard == events


def test_a_long_step_is_told_while_it_lasts() -> None:
    tell, clock, heard = waiting()
    tell(StageStarted(Stage.NOISE))
    clock.pass_by(3.0)
    tell(Progress(Stage.NOISE, 3, 3.0, of=10))
    tell.on_read(96, 0)
    heard.clear()
    clock.pass_by(QUIET_SECONDS - 1)
    tell.look()
    assert heard == []
    clock.pass_by(9.0)
    tell.look()
    (told,) = heard
    assert (told.stage, told.done, told.of, told.waited_seconds) == (Stage.NOISE, 3, 10, 11.0)
    assert told.samples_per_second == pytest.approx(96 / 14)


def test_only_what_was_read_in_this_stage_is_its_rate() -> None:
    tell, clock, heard = waiting()
    tell(StageStarted(Stage.PROBE))
    tell.on_read(1000, 0)
    tell(StageStarted(Stage.MEASURE))
    tell.on_read(1050, 0)
    clock.pass_by(10.0)
    tell.look()
    assert heard[-1].samples_per_second == 5.0


def test_what_is_read_before_the_first_stage_is_told_too() -> None:
    tell, clock, heard = waiting()
    tell(Note("a"))
    tell.on_read(120, 0)
    clock.pass_by(60.0)
    tell.look()
    assert heard[-1] == Progress(
        Stage.OPEN, 0, 60.0, samples_per_second=2.0, waited_seconds=60.0, of=None
    )


def test_no_ten_seconds_pass_in_silence() -> None:
    """A step of a minute, on a stream that is no terminal: looked at once a second."""
    clock, stream = FakeClock(), io.StringIO()
    tell = Waiting(StreamRows(stream, clock), clock)
    tell(StageStarted(Stage.PROBE))
    spoken, seen = [0.0], stream.getvalue()
    for _ in range(60):
        clock.pass_by(1.0)
        tell.look()
        if stream.getvalue() != seen:
            spoken.append(clock.now)
            seen = stream.getvalue()
    spoken.append(clock.now)
    assert max(b - a for a, b in pairwise(spoken)) <= 10.0
    assert "under way for 54 s" in seen


def test_the_thread_is_gone_afterwards_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(threading.enumerate())
    with pytest.raises(KeyError), Waiting(lambda event: None) as tell:
        assert tell._thread in threading.enumerate()
        raise KeyError
    monkeypatch.delenv("BATCHFINDER_QUIET", raising=False)
    heard: list[Event] = []
    monkeypatch.setattr(session, "default_observer", lambda: heard.append)
    data = TensorDataset(torch.randn(64, 4), torch.randn(64, 1))
    max_batch_size(nn.Linear(4, 1), DataLoader(data, 8), loss_fn=nn.MSELoss(), memory_limit="1MiB")
    assert any(isinstance(event, StageStarted) for event in heard)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("error", [KeyboardInterrupt, KeyError])
def test_an_error_is_told_in_a_row_of_its_own_after_the_live_line(
    error: type[BaseException],
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    clock, stream = FakeClock(), Terminal()
    with pytest.raises(error), Waiting(StreamRows(stream, clock), clock) as tell:
        clock.pass_by(24.0)
        tell(Progress(Stage.NOISE, 14, 9.0, of=50))
        raise error
    *_, live, last, nothing = re.split(r"[\r\n]+", stream.getvalue())
    assert live.isspace()
    assert last.split() == ["note", *f"ended by {error.__name__} after 24 s;".split(), *LEFT]
    assert nothing == ""


LEFT = ["all", "changes", "made", "by", "the", "call", "are", "undone"]
