"""What single samples come from: the protocol, and tables of rows; what the host holds of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate

from batchfinder.errors import OutOfTime
from batchfinder.protocols import Batch, Clock
from batchfinder.run.batches.lengths import Extent
from batchfinder.run.batches.order import EAGER, Order, shuffled
from batchfinder.run.memory import host_budget
from batchfinder.run.tree import bytes_in
from batchfinder.units import format_bytes
from batchfinder.wording import Caveat

__all__ = ["Patience", "Rows", "Store", "Table", "check_host", "copies_of", "table_behind"]


_WORTH_ASKING = 64 * 1024**2  # below this, the budget need not be looked up


def copies_of(loader: Any) -> int:
    """Batches that a loader's workers hold at once: workers × prefetch factor."""
    workers = getattr(loader, "num_workers", 0) or 0
    return int(workers) * int(getattr(loader, "prefetch_factor", None) or 2)


def check_host(needed: int, size: int) -> None:
    """Refuse a batch that the host has no memory for, before the kernel kills the process.

    Raises:
        MemoryError: with the bytes needed and had; the search takes it as out of memory.
    """
    if needed < _WORTH_ASKING:
        return
    budget = host_budget()
    if needed > budget:
        raise MemoryError(
            f"a batch of {size} samples needs {format_bytes(needed)} of host memory, of which "
            f"{format_bytes(budget)} may be used"
        )


@dataclass
class Patience:
    """How long reading may go on, and what it has taken so far.

    ``seconds_left`` is the caller's; ``on_read`` is told of every read: samples so far, and
    samples under way.
    """

    seconds_left: Callable[[], float] = lambda: float("inf")
    on_read: Callable[[int, int], None] | None = None
    clock: Clock = time.perf_counter
    samples_read: int = 0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=9))
    """Seconds per sample of the latest reads that were waited for from start to end."""
    bursts: deque[float] = field(default_factory=lambda: deque(maxlen=9))
    """The same of whole bursts, one of every worker: what reading in parallel takes."""

    def __post_init__(self) -> None:
        self.granted_seconds = self.seconds_left()

    def is_over(self) -> bool:
        return self.seconds_left() <= 0

    def note(self, samples: int, planned: int = 0, seconds: float | None = None) -> None:
        """``samples`` more were read, in ``seconds`` where they were waited for from the start."""
        self.samples_read += samples
        if seconds is not None:
            self.took(samples, seconds)
        if self.on_read is not None:
            self.on_read(self.samples_read, planned)

    def took(self, samples: int, seconds: float) -> None:
        """A read of ``samples`` was waited for from start to end, for ``seconds``."""
        if samples:
            self.recent.append(seconds / samples)

    def took_burst(self, samples: int, seconds: float) -> None:
        """As ``took``, of as many samples as all workers give at about the same time."""
        self.took(samples, seconds)
        self.bursts.append(seconds / samples)

    def seconds_in_bursts(self, samples: int) -> float:
        """For reading so many by all workers; 0.0 before a burst was waited for."""
        if not self.bursts:
            return 0.0
        return samples * sorted(self.bursts)[len(self.bursts) // 2]

    def expected_seconds(self, samples: int) -> float:
        """For reading so many, by the median of the latest reads; 0.0 before the first."""
        if not self.recent:
            return 0.0
        return samples * sorted(self.recent)[len(self.recent) // 2]

    def check(self, samples: int) -> None:
        """Raise ``OutOfTime`` where reading so many would take longer than there is time."""
        left = self.seconds_left()
        if left <= 0 or self.expected_seconds(samples) > left:
            raise OutOfTime(
                f"expected time to read {samples} samples, about "
                f"{self.expected_seconds(samples):.1f} s; {max(left, 0):.1f} s of budget_seconds "
                "are left: raise it, or give the loader more workers"
            )


class Store(Protocol):
    """Samples of the user's."""

    patience: Patience

    @property
    def length(self) -> int | None:
        """Samples in all; ``None`` for a stream."""
        ...

    @property
    def is_apart(self) -> bool:
        """Whether samples can be had one by one, rather than in batches only."""
        ...

    @property
    def notes(self) -> tuple[Caveat, ...]:
        """What is to be said of how it reads."""
        ...

    @property
    def block(self) -> int:
        """Samples that are best read at once."""
        ...

    def available(self, wanted: int) -> int:
        """How many positions there are, at most ``wanted``."""
        ...

    def read_ahead(self, wanted: int, in_time: Callable[[], bool]) -> None:
        """Look for the end, where it is not known, among the first ``wanted`` samples."""
        ...

    def fetch(self, positions: Sequence[int]) -> list[Any]:
        """The samples at positions of the fixed order."""
        ...

    def extents(self, positions: Sequence[int]) -> list[Extent]:
        """How long each is."""
        ...

    def batch(self, positions: Sequence[int]) -> Batch:
        """Their batch, as the user's own path makes it."""
        ...

    def draw(self, size: int) -> Batch:
        """A batch of the next ``size`` samples in random order; a new epoch where too few are left.

        Raises:
            OutOfTime: where there is no time left to read them.
        """
        ...

    def draw_samples(self, count: int) -> list[Any]:
        """The next ``count`` samples in random order."""
        ...

    def follow(self, loader: Iterable[Batch]) -> Iterable[Batch]:
        """``loader``, read by the workers that run already where that can be."""
        ...

    def rewind(self, seed: int) -> None:
        """Start drawing anew."""
        ...

    def expect(self, sizes: Sequence[int]) -> None:
        """The sizes of the next draws, with none to be read ahead after them."""
        ...

    def close(self) -> None:
        """Stop what reads."""
        ...


@dataclass(frozen=True)
class Table:
    """The tensors of a ``TensorDataset``, and which of their rows a subset keeps."""

    tensors: tuple[torch.Tensor, ...]
    rows: torch.Tensor | None = None

    def batch(self, indices: Sequence[int]) -> list[torch.Tensor]:
        """The rows at the dataset's indices, as ``default_collate`` gives them."""
        chosen = torch.as_tensor(indices)
        if self.rows is not None:
            chosen = self.rows[chosen]
        return [tensor[chosen] for tensor in self.tensors]


def table_behind(loader: DataLoader[Any]) -> Table | None:
    """The table that a loader reads; ``None`` where anything stands between rows and batch."""
    if loader.collate_fn is not default_collate:
        return None
    return _table(loader.dataset)


def _table(dataset: Any) -> Table | None:
    if type(dataset) is TensorDataset:
        return Table(dataset.tensors)
    if type(dataset) is not Subset:
        return None
    inner = _table(dataset.dataset)
    if inner is None:
        return None
    rows = torch.as_tensor(dataset.indices)
    return Table(inner.tensors, rows if inner.rows is None else inner.rows[rows])


class Rows:
    """A ``Store`` over a table: batches are cut from it whole, and every row is as long."""

    is_apart = False
    notes: tuple[Caveat, ...] = ()
    block = EAGER

    def __init__(
        self,
        table: Table,
        indices: Sequence[int],
        seed: int = 0,
        *,
        weights: torch.Tensor | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.patience = patience or Patience()
        self._table, self._indices = table, indices
        self._fixed = shuffled(len(indices), seed)
        self._order = Order(len(indices), seed, weights)
        self._row_bytes = bytes_in(table.batch([indices[0]]))

    @property
    def length(self) -> int:
        return len(self._indices)

    def available(self, wanted: int) -> int:
        return min(wanted, self.length)

    def read_ahead(self, wanted: int, in_time: Callable[[], bool]) -> None:
        """The length is known."""

    def fetch(self, positions: Sequence[int]) -> list[Any]:
        return [tuple(part[0] for part in self.batch([position])) for position in positions]

    def extents(self, positions: Sequence[int]) -> list[Extent]:
        return [Extent(1, {}) for _ in positions]

    def batch(self, positions: Sequence[int]) -> Batch:
        check_host(len(positions) * self._row_bytes, len(positions))
        return self._table.batch([self._indices[self._fixed[p]] for p in positions])

    def draw(self, size: int) -> Batch:
        self.patience.note(size)
        return self._table.batch([self._indices[p] for p in self._order.draw(size)])

    def draw_samples(self, count: int) -> list[Any]:
        drawn = self.draw(count)
        return [tuple(part[row] for part in drawn) for row in range(count)]

    def follow(self, loader: Iterable[Batch]) -> Iterable[Batch]:
        return loader

    def rewind(self, seed: int) -> None:
        self._order.rewind(seed)

    def expect(self, sizes: Sequence[int]) -> None:
        """Nothing is read ahead."""

    def close(self) -> None:
        pass
