"""Trials that cannot take the process with them: each in a child process of its own.

What cannot be recovered from inside, an error that leaves the device unusable or the kernel
killing the process for its memory, then costs one trial. Each trial pays for importing torch and
building the model again, seconds on most machines.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from batchfinder.errors import BatchFinderError, DeviceLost, NotPicklable
from batchfinder.probe import SearchSpace
from batchfinder.results import Outcome, Trial
from batchfinder.run.bench import open_bench
from batchfinder.run.trial import run_trial
from batchfinder.training import Factory, built_by

__all__ = ["IsolatedTrials"]

_ANY_SIZE = SearchSpace()


@dataclass(frozen=True)
class IsolatedTrials:
    """What ``probe`` calls with a size, run in a spawned child process.

    Args:
        make: builds what is trained: a ``Training``, or its arguments by name; a function at the
            top level of a module that a child can import.
        memory_limit: bytes, or text such as ``"8GB"``, set in the child.
        steps: whole steps a trial.
        patience_seconds: how long to wait for one trial; ``None`` for ever.
        space: the sizes that may reach the step.

    Raises:
        NotPicklable: where ``make`` cannot be sent to a child.
    """

    make: Factory
    memory_limit: int | str | None = None
    steps: int = 2
    patience_seconds: float | None = None
    space: SearchSpace = _ANY_SIZE

    def __post_init__(self) -> None:
        _check(self.make)

    def __call__(self, size: int) -> Trial:
        """One trial at ``size``; a child that died is an outcome.

        Raises:
            BatchFinderError: where the child could not be started.
            Exception: a mistake in the user's code, as itself, raised again here.
        """
        spawning = multiprocessing.get_context("spawn")
        ours, theirs = spawning.Pipe(duplex=False)
        child = spawning.Process(
            target=_run,
            args=(theirs, self, size),
        )
        try:
            child.start()
            theirs.close()
            return self._result(ours, child, size)
        finally:
            ours.close()
            if child.is_alive():
                child.kill()
            if child.pid is not None:
                child.join()

    def _result(self, messages: Connection, child: SpawnProcess, size: int) -> Trial:
        try:
            messages.recv()  # that it has started
        except EOFError:
            child.join()
            raise BatchFinderError(
                f"the child process of a trial exited with code {child.exitcode} before it "
                "started: see its messages above. A script must guard its start with "
                'if __name__ == "__main__":'
            ) from None
        if not messages.poll(self.patience_seconds):
            note = f"returned no result within {self.patience_seconds} seconds"
            return Trial(size, Outcome.KILLED, note=note)
        try:
            result = messages.recv()
        except EOFError:
            child.join()
            return Trial(size, Outcome.KILLED, note=_death(child.exitcode))
        if isinstance(result, Trial):
            return result
        error, text = result
        error.add_note(f"in a child process:\n{text}")
        raise error


def _run(messages: Connection, trials: IsolatedTrials, size: int) -> None:
    """The child's whole life."""
    _be_the_first_to_be_killed()
    messages.send("started")
    try:
        training = built_by(trials.make)
        with open_bench(training, space=trials.space, memory_limit=trials.memory_limit) as bench:
            bench.fresh()
            result: Any = run_trial(bench.setup, size, steps=trials.steps)
    except DeviceLost as error:
        result = Trial(size, Outcome.KILLED, note=str(error))
    except Exception as error:  # noqa: BLE001  # raised again in the parent
        result = (_sendable(error), traceback.format_exc())
    messages.send(result)
    messages.close()


def _be_the_first_to_be_killed() -> None:
    """Where memory ends, the kernel shall choose this process, not the user's; see proc(5)."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  # whatever its own reduce raises
        return BatchFinderError(f"{type(error).__name__}: {error}")
    return error


def _check(make: Factory) -> None:
    way_out = (
        "expected a function at the top level of a module that a child process can import; found "
        f"{make!r}: move it into a file of its own and import it"
    )
    try:
        pickle.dumps(make)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise NotPicklable(way_out) from error
    main = sys.modules.get("__main__")
    if getattr(make, "__module__", None) == "__main__" and not hasattr(main, "__file__"):
        raise NotPicklable(f"{way_out} (what is defined in a notebook, no child can import)")


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        cause = ": usually the kernel, out of memory" if name == "SIGKILL" else ""
        return f"killed by {name}{cause}"
    return f"ended with code {code} and no result"
