"""One process, and which samples are a rank's own."""

from __future__ import annotations

import hashlib
import itertools
import pickle
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from batchfinder.protocols import Ranks

__all__ = ["ALONE", "WHOLE", "Alone", "OwnPart"]


T = TypeVar("T")


class Alone:
    """The ranks of a single process. Given as ``ranks=`` it makes this rank search by itself."""

    rank = 0
    size = 1
    alone = True
    replicas = 1
    waited_seconds = 0.0
    ran_out = 0
    is_gated = is_over = False

    def meet(self, described: Mapping[str, str], *, replicas: int | None = None) -> Alone:
        """Nobody is waited for."""
        del described, replicas
        return self

    def tell(self, where: str, value: T) -> list[T]:
        """The own value alone."""
        del where
        return [value]

    def together(self, where: str) -> AbstractContextManager[None]:
        del where
        return nullcontext()

    def guarded(
        self, where: str, mend: Callable[[], None] = lambda: None
    ) -> AbstractContextManager[None]:
        del where, mend
        return nullcontext()

    def gate(self) -> AbstractContextManager[None]:
        return nullcontext()

    def ungated(self) -> AbstractContextManager[None]:
        return nullcontext()

    def clock(self) -> float:
        return time.perf_counter()

    def left_with(self, error: BaseException) -> None:
        """Nobody is told."""

    def __repr__(self) -> str:
        return "ALONE"


ALONE = Alone()


Start = Callable[[], Iterable[Any]]
"""Begins a stream of samples anew."""


class OwnPart:
    """Which samples are this rank's, of those that its loader gives."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._replica = ranks.rank * ranks.replicas // ranks.size

    def of_indices(self, indices: Sequence[int]) -> Sequence[int]:
        """Every ``replicas``-th index, starting at this replica's own.

        That is where all ranks have the same indices.
        """
        if self._ranks.replicas == 1 or not self._same(_digest_of(indices)):
            return indices
        return indices[self._replica :: self._ranks.replicas]

    def of_stream(self, start: Start) -> tuple[Start, int]:
        """The stream as it is and 1, or every ``n``-th sample of it and ``n``.

        Streams are the same where they begin with the same sample. The one begun to see it is the
        first to be read.
        """
        if self._ranks.replicas == 1:
            return start, 1
        stream = iter(start())
        first = list(itertools.islice(stream, 1))
        begun = [itertools.chain(first, stream)]

        def resumed() -> Iterable[Any]:
            return begun.pop() if begun else start()

        if not self._same(_digest_of_sample(first)):
            return resumed, 1
        replica, replicas = self._replica, self._ranks.replicas
        return lambda: itertools.islice(resumed(), replica, None, replicas), replicas

    def _same(self, digest: str) -> bool:
        return len(set(self._ranks.tell("the samples", digest))) == 1


WHOLE = OwnPart(ALONE)
"""Of one process."""


def _digest_of(indices: Sequence[int]) -> str:
    if isinstance(indices, range):
        return repr(indices)
    return _hashed(",".join(map(str, indices)).encode())


def _digest_of_sample(sample: Any) -> str:
    try:
        return _hashed(pickle.dumps(sample))
    except Exception:  # noqa: BLE001  # pickling runs the user's code, which may fail in any way
        return repr(sample)


def _hashed(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
