"""Messages over the store of the default process group: one kind, in lockstep.

The store is there with every back-end, needs neither device memory nor sockets of its own, and
tells which rank has not answered. Keys are polled, so that Ctrl-C gets through and nothing is
printed by a store that waits in vain.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from batchfinder.errors import PeerFailed, RanksNotTogether

__all__ = ["Board", "Message", "State", "Store"]

_FASTEST, _SLOWEST = 2e-5, 5e-3
"""Seconds between two looks at the store: at first, and after a while."""
_LOOK_FOR_LEFT = 0.1
"""Seconds after which a rank that is waited for may have left without an answer."""


class Store(Protocol):
    """What is used of ``torch.distributed.Store``."""

    def set(self, key: str, value: bytes) -> None: ...
    def get(self, key: str) -> bytes: ...
    def check(self, keys: list[str]) -> bool: ...
    def multi_get(self, keys: list[str]) -> list[bytes]: ...
    def delete_key(self, key: str) -> bool: ...
    def add(self, key: str, amount: int) -> int: ...


class State(IntEnum):
    """How a rank is."""

    WELL = 0
    ENDED = 1
    """The data or the time has ended: ordinary control flow."""
    INDEX_LIMIT = 2
    OUT_OF_MEMORY = 3
    FAILED = 4


@dataclass(frozen=True)
class Message:
    """How a rank is, and where; the error that it has met, or the value that it tells."""

    state: State
    where: str
    kind: str = ""
    """The error's type."""
    text: str = ""
    value: Any = None

    def packed(self) -> bytes:
        return pickle.dumps((int(self.state), self.where, self.kind, self.text, self.value))

    @classmethod
    def unpacked(cls, data: bytes) -> Message:
        state, *rest = pickle.loads(data)  # written by a process of the same training
        return cls(State(state), *rest)


class Board:
    """One call's messages. The n-th of every rank are exchanged for one another.

    Args:
        store: holds the messages.
        prefix: of this call's keys.
        rank: of this process.
        size: how many ranks there are.
        timeout_seconds: how long an answer is waited for.
        clock: seconds; a fake one in tests.
        sleep: waits between two looks.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        rank: int,
        size: int,
        timeout_seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store, self._prefix = store, prefix
        self._rank, self._size = rank, size
        self._timeout = timeout_seconds
        self._clock, self._sleep = clock, sleep
        self._next = 0
        self.waited_seconds = 0.0

    def exchange(self, message: Message, timeout_seconds: float | None = None) -> list[Message]:
        """Every rank's message of this turn, in order of rank.

        Raises:
            RanksNotTogether: where a rank gives no answer in time.
            PeerFailed: where one has left instead.
        """
        number = self._next
        self._next = number + 1
        self._store.set(self._key(number, self._rank), message.packed())
        keys = [self._key(number, rank) for rank in range(self._size)]
        self._wait(keys, message.where, timeout_seconds or self._timeout)
        answers = [Message.unpacked(each) for each in self._store.multi_get(keys)]
        if number > 1:  # whoever answers this turn has read the one before
            self._store.delete_key(self._key(number - 2, self._rank))
        return answers

    def leave(self, message: Message) -> None:
        """The last word of this rank, whatever turn the others wait for."""
        self._store.set(self._left(self._rank), message.packed())
        self._store.set(self._key(self._next, self._rank), message.packed())
        self._next += 1

    def withdraw(self) -> bool:
        """Take back the last message; False where all others have answered it: send it again."""
        self._next -= 1
        self._store.delete_key(self._key(self._next, self._rank))
        return self.missing(self._next) != [self._rank]

    def forget_leaving(self) -> None:
        """This rank is back: an earlier try under the same prefix may have left."""
        if self._store.check([self._left(self._rank)]):
            self._store.delete_key(self._left(self._rank))

    def missing(self, number: int) -> list[int]:
        """Ranks without a message of turn ``number``."""
        return [
            rank for rank in range(self._size) if not self._store.check([self._key(number, rank)])
        ]

    def _wait(self, keys: list[str], where: str, timeout: float) -> None:
        started = self._clock()
        pause, looked = _FASTEST, started
        while not self._store.check(keys):
            now = self._clock()
            if now - looked > _LOOK_FOR_LEFT:
                looked = now
                for rank in range(self._size):
                    if rank != self._rank and self._store.check([self._left(rank)]):
                        left = Message.unpacked(self._store.get(self._left(rank)))
                        raise PeerFailed(rank, left.kind, left.text, left.where)
            if now - started > timeout:
                self._refuse_missing(keys, where, timeout)
            self._sleep(pause)
            pause = min(1.5 * pause, _SLOWEST)
        self.waited_seconds += self._clock() - started

    def _refuse_missing(self, keys: list[str], where: str, timeout: float) -> None:
        absent = [rank for rank, key in enumerate(keys) if not self._store.check([key])]
        if absent:
            names = f"rank{'s' if len(absent) > 1 else ''} {', '.join(map(str, absent))}"
            raise RanksNotTogether(
                f"expected an answer from every rank at {where!r}; found none from "
                f"{names} for {timeout:g} s: it stalled, died or diverged. Restart "
                "all processes"
            )

    def _key(self, number: int, rank: int) -> str:
        return f"{self._prefix}/{number}/{rank}"

    def _left(self, rank: int) -> str:
        return f"{self._prefix}/left/{rank}"
