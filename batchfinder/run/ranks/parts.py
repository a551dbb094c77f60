"""Samples of a rank's own, where the loaders of all ranks give the same ones.

Else all ranks would measure the same gradient. A loader that is divided among ranks stays as it is.
"""

from __future__ import annotations

import hashlib
import itertools
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from batchfinder.protocols import Ranks
from batchfinder.run.ranks.alone import ALONE

__all__ = ["WHOLE", "OwnPart"]

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
