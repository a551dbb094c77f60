"""The ranks of one call, once they have met: what is decided from their messages.

A rank in trouble sends one message and leaves the work at hand; all others stop at their next one.
Out of memory on one rank is out of memory on all, so that the search goes on alike everywhere. An
error of the user's on one rank ends the call on all. The same error on all is nobody's failure:
each raises its own, and the call goes on as with one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Any, TypeVar

import torch

from batchfinder.errors import (
    BatchFinderError,
    CannotBuildBatch,
    OutOfTime,
    PeerFailed,
    RanksNotTogether,
)
from batchfinder.run.oom import Verdict, classify
from batchfinder.run.ranks.gate import Gate
from batchfinder.run.ranks.messages import Board, Message, State

__all__ = ["MetRanks"]

T = TypeVar("T")

_LONGEST = 500
_FOR_THE_FAILED_SECONDS = 10.0
"""How long a rank with an error of its own waits to hear whether the others met it too."""
_ENDS = {each.__name__: each for each in (OutOfTime, CannotBuildBatch, StopIteration)}
"""Errors that end the reading of samples, on every rank where on one."""


class MetRanks:
    """``Ranks`` over a ``Board``.

    Args:
        board: carries the messages.
        rank: of this process.
        size: how many ranks there are.
        replicas: how many of them train on samples of their own.
        seconds: the local clock.
    """

    alone = False

    def __init__(
        self,
        board: Board,
        rank: int,
        size: int,
        replicas: int,
        *,
        seconds: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._board = board
        self.rank, self.size, self.replicas = rank, size, replicas
        self._seconds = seconds
        self._over = ""
        self.is_gated = True
        self.ran_out = 0
        self._told: BaseException | None = None
        """The error that all ranks know of; it passes through, and is not told again."""
        self._time, self._since = 0.0, seconds()

    @property
    def is_over(self) -> bool:
        """Whether the ranks have parted, so that nothing can be told any more."""
        return bool(self._over)

    @property
    def waited_seconds(self) -> float:
        return self._board.waited_seconds

    def tell(self, where: str, value: T) -> list[T]:
        if self._over:
            raise RanksNotTogether(f"the ranks diverged before {where!r}: {self._over}")
        answers = self._exchanged(Message(State.WELL, where, value=value))
        self._raise_for(answers, where)
        return [each.value for each in answers]

    def together(self, where: str) -> AbstractContextManager[None]:
        return _Guarded(self, where, asks=True)

    def guarded(
        self, where: str, mend: Callable[[], None] = lambda: None
    ) -> AbstractContextManager[None]:
        """Work whose error all hear of, at their next message; ``mend`` puts this rank right."""
        return _Guarded(self, where, asks=False, mend=mend)

    def gate(self) -> AbstractContextManager[Any]:
        return Gate(self.ask) if self.is_gated else nullcontext()

    @contextmanager
    def ungated(self) -> Iterator[None]:
        before, self.is_gated = self.is_gated, False
        try:
            yield
        finally:
            self.is_gated = before

    def ask(self, where: str) -> None:
        """Say that this rank is well, and stop here if another one is not."""
        self.tell(where, None)

    def clock(self) -> float:
        now = self._seconds()
        if self._over:
            return self._time + now - self._since
        self._time += max(self.tell("the clock", now - self._since))
        self._since = self._seconds()
        return self._time

    def met_with(self, error: Exception, where: str) -> Exception:
        """What this rank raises, in a piece of work that ended in ``error``; all are told.

        One that all know of already is left as it is.
        """
        if self._over or error is self._told:
            return error
        state, text = _state_of(error), " ".join(str(error).split())[:_LONGEST]
        message = Message(state, where, type(error).__name__, text)
        failed = state is State.FAILED
        self.ran_out += state is State.OUT_OF_MEMORY
        try:
            answers = self._exchanged(message, _FOR_THE_FAILED_SECONDS if failed else None)
            self._raise_for(answers, where, own=error)
        except (PeerFailed, RanksNotTogether) as parted:
            return error if failed else parted
        except Exception as agreed:  # noqa: BLE001  # what every rank raises
            return agreed
        return error

    def left_with(self, error: BaseException) -> None:
        if not self._over and error is not self._told:
            self._part(f"{type(error).__name__} on this rank", type(error).__name__, str(error))

    def _exchanged(self, message: Message, seconds: float | None = None) -> list[Message]:
        try:
            return self._board.exchange(message, seconds)
        except (PeerFailed, RanksNotTogether) as error:
            self._part(str(error), type(error).__name__, str(error), where=message.where)
            raise
        except BatchFinderError:
            raise
        except RuntimeError as error:  # the store's own: the process that keeps it is gone
            self._over = str(error)
            raise RanksNotTogether(
                f"expected an answer from the process group's store at {message.where!r}; found "
                f"{' '.join(str(error).split())[:_LONGEST]!r}: the process that hosts it "
                "(usually rank 0) has exited. Restart all processes"
            ) from None

    def _raise_for(
        self, answers: Sequence[Message], where: str, own: Exception | None = None
    ) -> None:
        """Raise what these answers call for, on every rank alike.

        Nothing where all are well at one place; ``own`` is left to the caller where all failed
        alike.
        """
        worst = max(each.state for each in answers)
        if worst is State.WELL:
            places = [each.where for each in answers]
            if len(set(places)) > 1:
                self._refuse_apart(places)
            return
        if worst is State.FAILED:
            if all(each.state is worst and each.kind == answers[0].kind for each in answers):
                self._told = own
                return
            rank = next(r for r, each in enumerate(answers) if each.state is worst)
            first = answers[rank]
            failure = PeerFailed(rank, first.kind, first.text, first.where)
            self._over = str(failure)
            raise failure
        rank = next(r for r, each in enumerate(answers) if each.state is worst)
        self._told = _alike(answers[rank], rank, self.size)
        raise self._told from None

    def _refuse_apart(self, places: Sequence[str]) -> None:
        other = next(r for r, place in enumerate(places) if place != places[self.rank])
        error = RanksNotTogether(
            f"expected every rank to take the same steps; found rank {self.rank} at "
            f"{places[self.rank]!r} and rank {other} at {places[other]!r}: functions that you "
            "pass must behave the same on every rank"
        )
        self._over = str(error)
        raise error

    def _part(self, why: str, kind: str, text: str, where: str = "the call") -> None:
        """Leave, with a last word for whoever waits."""
        self._over = why
        said = " ".join(text.split())[:_LONGEST]
        try:
            self._board.leave(Message(State.FAILED, where, kind, said))
        except RuntimeError:  # the store is gone, and with it everybody who could read
            return


class _Guarded:
    """Work whose error all ranks hear of; with ``asks`` they leave it together too."""

    def __init__(
        self, ranks: MetRanks, where: str, *, asks: bool, mend: Callable[[], None] = lambda: None
    ) -> None:
        self._ranks, self._where, self._asks, self._mend = ranks, where, asks, mend

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            if self._asks:
                self._ranks.ask(self._where)
            return
        self._mend()
        if not isinstance(error, Exception):
            self._ranks.left_with(error)
            return
        raised = self._ranks.met_with(error, self._where)
        if raised is not error:
            raise raised from None


def _state_of(error: Exception) -> State:
    if type(error).__name__ in _ENDS:
        return State.ENDED
    verdict = classify(error)
    if verdict is Verdict.OUT_OF_MEMORY:
        return State.OUT_OF_MEMORY
    return State.INDEX_LIMIT if verdict is Verdict.INDEX_LIMIT else State.FAILED


def _alike(message: Message, rank: int, size: int) -> Exception:
    """What every rank raises where ``message`` is the worst; its text names the rank."""
    text = f"{message.text} (on rank {rank} of {size})"
    if message.state is State.OUT_OF_MEMORY:
        return torch.OutOfMemoryError(text)
    if message.state is State.INDEX_LIMIT:
        return RuntimeError(text)
    ends: Any = _ENDS[message.kind]
    made: Exception = ends(text)
    return made
