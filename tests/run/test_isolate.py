"""Trials in child processes: what ends a child costs one trial.

Only a few of these start a child, which costs seconds; the others play its part in this process.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass, field
from typing import Any

import isolate_cases
import pytest

from batchfinder.errors import BatchFinderError, NotPicklable
from batchfinder.results import Outcome, Trial
from batchfinder.run import isolate
from batchfinder.run.isolate import IsolatedTrials


@pytest.mark.slow
def test_a_killed_child_is_a_trial_and_the_next_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHFINDER_TEST_END", "kill")
    trials = IsolatedTrials(isolate_cases.fatal, "100KB")
    killed, fits = trials(16), trials(8)
    assert killed.outcome is Outcome.KILLED
    assert killed.note == "killed by SIGKILL: usually the kernel, out of memory"
    assert fits.fits and fits.peak_bytes is not None and 0 < fits.peak_bytes < 100_000
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_bug_comes_back_as_itself_with_the_childs_trace() -> None:
    with pytest.raises(KeyError, match="nothing to build") as caught:
        IsolatedTrials(isolate_cases.broken)(8)
    assert "in broken" in caught.value.__notes__[-1]
    assert not multiprocessing.active_children()


@dataclass
class Sent:
    """The child's end of the pipe."""

    messages: list[Any] = field(default_factory=list)

    def send(self, message: Any) -> None:
        self.messages.append(message)

    def close(self) -> None: ...


def childs_messages(make: Any, limit: int | str, size: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(isolate, "_be_the_first_to_be_killed", lambda: None)
    sent = Sent()
    trials = isolate.IsolatedTrials(make, limit)
    isolate._run(sent, trials, size)  # type: ignore[arg-type]  # a stand-in
    assert sent.messages[0] == "started" and len(sent.messages) == 2
    return sent.messages[1]


def test_the_child_sends_its_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = childs_messages(isolate_cases.plain, "1MB", 8, monkeypatch)
    assert isinstance(trial, Trial) and trial.fits and trial.batch_size == 8
    tight = childs_messages(isolate_cases.plain, 1500, 64, monkeypatch)
    assert tight.outcome is Outcome.OUT_OF_MEMORY


def test_a_lost_device_costs_one_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHFINDER_TEST_END", "sticky")
    trial = childs_messages(isolate_cases.fatal, "1MB", 9, monkeypatch)
    assert trial.outcome is Outcome.KILLED and "the device was lost" in trial.note


def test_an_error_that_cannot_be_sent_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHFINDER_TEST_END", "bug")
    error, text = childs_messages(isolate_cases.fatal, "1MB", 9, monkeypatch)
    assert type(error) is BatchFinderError
    assert str(error) == "Unsendable: a bug of the user's" and "in forward" in text


@dataclass
class Ended:
    """A child that ended with a code."""

    exitcode: int

    def join(self) -> None: ...


def parents_result(messages: list[Any], code: int, **options: Any) -> Trial:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    for message in messages:
        theirs.send(message)
    if code:
        theirs.close()
    trials = IsolatedTrials(isolate_cases.plain, **options)
    return trials._result(ours, Ended(code), 16)  # type: ignore[arg-type]  # a stand-in


@pytest.mark.parametrize(
    ("code", "note"),
    [
        (-9, "killed by SIGKILL: usually the kernel, out of memory"),
        (-6, "killed by SIGABRT"),
        (3, "ended with code 3 and no result"),
    ],
)
def test_a_child_that_died_is_an_outcome(code: int, note: str) -> None:
    assert parents_result(["started"], code) == Trial(16, Outcome.KILLED, note=note)


def test_patience_ends() -> None:
    trial = parents_result(["started"], 0, patience_seconds=0.0)
    assert trial.outcome is Outcome.KILLED and "no result within 0.0 seconds" in trial.note


def test_a_child_that_never_began_is_no_trial() -> None:
    with pytest.raises(BatchFinderError, match="__main__"):
        parents_result([], 1)


def test_what_a_child_cannot_import_is_refused_before_anything_runs() -> None:
    def local() -> dict[str, Any]:
        return {}

    for make in (local, lambda: {}):
        with pytest.raises(NotPicklable, match="top level of a module"):
            IsolatedTrials(make)


def test_a_notebooks_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolate.sys, "modules", {**isolate.sys.modules, "__main__": object()})
    monkeypatch.setattr(isolate.pickle, "dumps", lambda _: b"")
    monkeypatch.setattr(isolate_cases.plain, "__module__", "__main__")
    with pytest.raises(NotPicklable, match="notebook"):
        IsolatedTrials(isolate_cases.plain)
