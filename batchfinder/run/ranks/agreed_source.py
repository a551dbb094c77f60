"""The user's loader on every rank: the same sizes everywhere, and samples of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from batchfinder.errors import RanksNotTogether
from batchfinder.protocols import Batch, BatchSource, Ranks, Unit
from batchfinder.wording import Caveat

__all__ = ["AgreedSource"]


@dataclass(frozen=True)
class _Known:
    """What a rank's loader is like."""

    base_batch_size: int | None
    length: int | None
    ceiling: int | None
    unit: Unit
    smallest: int
    varies: bool
    worker_copies: int


class AgreedSource:
    """A ``BatchSource`` whose sizes are those that every rank can fill.

    ``length`` is the shortest rank's part. ``draw`` ends on all ranks where it ends on one.

    Args:
        source: this rank's own.
        ranks: who reads beside it.
    """

    def __init__(self, source: BatchSource, ranks: Ranks) -> None:
        self._own, self._ranks = source, ranks
        with ranks.guarded("the loader"):
            known = _Known(
                source.base_batch_size,
                source.length,
                source.ceiling,
                source.unit,
                source.smallest,
                source.varies,
                source.worker_copies,
            )
        told = ranks.tell("the loader", known)
        _refuse_different(told, ranks.rank)
        self.base_batch_size, self.unit = known.base_batch_size, known.unit
        self.length = _least(each.length for each in told)
        self.ceiling = _least(each.ceiling for each in told)
        self.smallest = max(each.smallest for each in told)
        self.varies = any(each.varies for each in told)
        self.worker_copies = max(each.worker_copies for each in told)

    def expected_seconds(self, size: int) -> float:
        """This rank's own."""
        return self._own.expected_seconds(size)

    def take(self, size: int) -> Batch:
        with self._ranks.together("making a batch"):
            return self._own.take(size)

    def ordinary(self, size: int) -> Batch:
        """Errors are told; without one nothing is, so that a rank may ask for one by itself."""
        with self._ranks.guarded("making a batch"):
            return self._own.ordinary(size)

    def draw(self, size: int) -> Batch:
        with self._ranks.together("a draw"):
            return self._own.draw(size)

    def rewind(self, seed: int) -> None:
        with self._ranks.guarded("a new order"):
            self._own.rewind(seed)

    def expect(self, sizes: Sequence[int]) -> None:
        self._own.expect(sizes)

    def count(self, batch: Batch) -> int:
        return self._own.count(batch)

    def rebuild(self, size: int) -> Iterable[Batch]:
        return self._own.rebuild(size)

    @property
    def notes(self) -> tuple[Caveat, ...]:
        return self._own.notes

    def as_ordinary(self) -> AgreedSource:
        return AgreedSource(self._own.as_ordinary(), self._ranks)

    def close(self) -> None:
        self._own.close()


def _least(values: Iterable[int | None]) -> int | None:
    return min((each for each in values if each is not None), default=None)


def _refuse_different(told: Sequence[_Known], rank: int) -> None:
    for other, each in enumerate(told):
        for name in ("base_batch_size", "unit"):
            mine, theirs = getattr(told[rank], name), getattr(each, name)
            if mine != theirs:
                raise RanksNotTogether(
                    f"expected loaders with the same {name.replace('_', ' ')} on every rank; found "
                    f"{mine} on rank {rank} and {theirs} on rank {other}: ranks with different "
                    "batch sizes are not supported"
                )
