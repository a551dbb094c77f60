"""The processes that train together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

__all__ = ["RankGroup", "Ranks"]

T = TypeVar("T")


class Ranks(Protocol):
    """The ranks of one call under way: what they tell each other, and how they stay together.

    Everything travels as one kind of message, so that a rank in trouble needs one message, whatever
    the others are about to exchange. Every rank sends the same messages in the same order.
    """

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def alone(self) -> bool:
        """Whether there is one process, which sends no messages."""
        ...

    @property
    def replicas(self) -> int:
        """How many ranks train on samples of their own.

        Fewer than ``size`` where layers or sequences are split among ranks.
        """
        ...

    @property
    def waited_seconds(self) -> float:
        """How long this rank has waited for the others' messages."""
        ...

    @property
    def ran_out(self) -> int:
        """How often memory ran out on this rank."""
        ...

    def tell(self, where: str, value: T) -> list[T]:
        """Every rank's value, in order of rank; ``where`` is what is done, the same on all.

        Raises:
            RanksNotTogether: where another rank is somewhere else, or gives no answer.
            PeerFailed: where another rank has ended with an error.
            torch.OutOfMemoryError: where memory ran out on another rank.
        """
        ...

    def together(self, where: str) -> AbstractContextManager[None]:
        """A piece of work that all ranks leave alike: all well, all out of memory, all failed."""
        ...

    def guarded(self, where: str, mend: Callable[[], None] = ...) -> AbstractContextManager[None]:
        """Work whose error all hear of, at their next message; ``mend`` puts this rank right."""
        ...

    def gate(self) -> AbstractContextManager[Any]:
        """Inside, no collective begins before all ranks have said that they are well."""
        ...

    @property
    def is_gated(self) -> bool:
        """Whether ``gate`` asks: not inside ``ungated``."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether the ranks have parted, so that nothing can be told any more."""
        ...

    def ungated(self) -> AbstractContextManager[None]:
        """Inside, collectives begin without asking the others, so that they can be timed."""
        ...

    def clock(self) -> float:
        """Seconds, the same on all ranks: between two readings those of the slowest rank."""
        ...

    def left_with(self, error: BaseException) -> None:
        """This rank leaves the call with an error of its own: the others are told, once."""
        ...


class RankGroup(Protocol):
    """The processes that search together; they synchronize at the start of every call."""

    def meet(self, described: Mapping[str, str], *, replicas: int | None = None) -> Ranks:
        """Wait for all ranks to make the same call.

        Args:
            described: what must be the same on all ranks, by name.
            replicas: ranks with samples of their own, as the wrappers of the model tell it.

        Raises:
            RanksNotTogether: where a rank does not come, or makes another call.
        """
        ...
