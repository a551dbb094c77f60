"""The user's loader with batches whose size may change from one to the next."""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset

from batchfinder.errors import CannotBuildBatch
from batchfinder.monitor.schedules import Target
from batchfinder.protocols import Batch

__all__ = ["Drawn", "GrowingLoader", "GrowingSampler", "devices_of"]


@dataclass(frozen=True)
class Drawn:
    """The indices of one batch, and what the schedule said when they were drawn."""

    indices: list[Any]
    target: Target


class GrowingSampler:
    """A batch sampler that asks for the size of every batch when it is drawn.

    Batches that were drawn but not handed out yet (by the workers' prefetching) are kept, so that
    what remains of the epoch is known at any moment, whatever the user's sampler does.
    """

    def __init__(self, sampler: Any, drop_last: bool, target: Callable[[], Target]) -> None:
        self.sampler = sampler
        self.drop_last = drop_last
        self._target = target
        self._source: Iterator[Any] | None = None
        self._rest: list[Any] | None = None
        self.ahead: deque[Drawn] = deque()

    def __iter__(self) -> Iterator[list[Any]]:
        rest, self._rest = self._rest, None
        self.ahead.clear()
        self._source = iter(self.sampler if rest is None else rest)
        while True:
            target = self._target()
            indices = list(itertools.islice(self._source, target.batch_size))
            if not indices or (self.drop_last and len(indices) < target.batch_size):
                return
            self.ahead.append(Drawn(indices, target))
            yield indices

    def __len__(self) -> int:
        count = len(self.sampler) if self._rest is None else len(self._rest)
        size = self._target().batch_size
        return count // size if self.drop_last else -(-count // size)

    def remaining(self) -> list[Any] | None:
        """Indices of this epoch that were not handed out; ``None`` between epochs.

        They are read from the user's sampler to its end, which goes on from the list.
        """
        if self._source is None:
            return self._rest
        rest = list(self._source)
        self._source = iter(rest)
        return [index for drawn in self.ahead for index in drawn.indices] + rest

    def resume(self, rest: list[Any] | None) -> None:
        """Let the next epoch consist of ``rest``; ``None`` for a whole one."""
        self._rest, self._source = rest, None
        self.ahead.clear()

    def end(self) -> None:
        """The epoch is over."""
        self._source = None
        self.ahead.clear()


class GrowingLoader:
    """Iterates as the user's ``DataLoader`` does: same dataset, order, collation and workers.

    Raises:
        CannotBuildBatch: where the loader makes its batches in a way of its own.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        target: Callable[[], Target],
        starts: Callable[[], None],
        hands_out: Callable[[Drawn], None],
    ) -> None:
        if (
            not isinstance(loader, DataLoader)
            or isinstance(loader.dataset, IterableDataset)
            or type(loader.batch_sampler) is not BatchSampler
        ):
            raise CannotBuildBatch(
                "expected a DataLoader over an indexed dataset, with batch_size and optionally a "
                f"sampler; found {_kind(loader)}: pass one without a batch_sampler of its own"
            )
        inner = loader.batch_sampler
        self.sampler = GrowingSampler(inner.sampler, inner.drop_last, target)
        self.base_batch_size = int(inner.batch_size)
        self._starts, self._hands_out = starts, hands_out
        # A copy keeps whatever a subclass holds; the constructor may load the data anew.
        self._loader = copy.copy(loader)
        vars(self._loader).update(batch_sampler=self.sampler, _iterator=None)
        if not getattr(loader, "in_order", True):
            vars(self._loader)["in_order"] = True  # sizes belong to batches by their order

    def __iter__(self) -> Iterator[Batch]:
        self._starts()
        for batch in self._loader:
            self._hands_out(self.sampler.ahead.popleft())
            yield batch
        self.sampler.end()

    def __len__(self) -> int:
        """Batches of an epoch at the present size."""
        return len(self.sampler)

    @property
    def dataset(self) -> Any:
        """The user's dataset."""
        return self._loader.dataset


def devices_of(sampler: Any) -> int:
    """Devices among which a sampler divides the data."""
    return int(sampler.num_replicas) if isinstance(sampler, DistributedSampler) else 1


def _kind(loader: Any) -> str:
    name = type(loader).__name__
    if not isinstance(loader, DataLoader):
        return name
    if isinstance(loader.dataset, IterableDataset):
        return f"a {name} over an IterableDataset"
    return f"a {name} with {type(loader.batch_sampler).__name__} for a batch sampler"
