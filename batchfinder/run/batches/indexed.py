"""A dataset read by index: fixed positions, and draws that the workers make ahead."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from batchfinder.errors import CannotBuildBatch
from batchfinder.protocols import Batch
from batchfinder.run.batches.lengths import Extent
from batchfinder.run.batches.order import EAGER, Mark, Order, shuffled
from batchfinder.run.batches.requests import Indexing, Reader, Request, Ticket, Want
from batchfinder.run.batches.sharing import Coming, Drawn, Followed, Sharing, portions
from batchfinder.run.batches.stores import Patience
from batchfinder.run.tree import MAKE_LOADER, bytes_in, fresh
from batchfinder.wording import Caveat

__all__ = ["Indexed", "expected_sizes"]

_EMPTY_IN_A_ROW = 100  # drawn batches of nothing but broken samples, after which it is an error
_SLOW = 1e-3  # seconds a sample from which on the clock is looked at after every one
_AT_ONCE = 32
_LONGEST_CYCLE = 64  # sizes drawn in turn are recognised up to so many
_EARLY = 64  # the first samples of an order are kept: a batch and its halves are drawn in turn
_MOST_EARLY_BYTES = 2**20  # a sample that is larger is read again


@dataclass(eq=False)
class _Planned:
    """A draw to come: its requests are under way."""

    before: Mark
    coming: Coming

    @property
    def size(self) -> int:
        return self.coming.size


class Indexed:
    """A map-style dataset, over the indices that the user's sampler can yield."""

    def __init__(
        self,
        reader: Reader,
        indices: Sequence[int],
        seed: int = 0,
        *,
        weights: torch.Tensor | None = None,
        base: int | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.patience = patience or Patience()
        self._reader, self._indices, self._seed = reader, indices, seed
        self._sharing = Sharing(reader, clock=self.patience.clock)
        self._base = base or 1
        self._fixed = shuffled(len(indices), seed)
        self._order = Order(len(indices), seed, weights)
        self._apart: bool | None = None
        self._planned: deque[_Planned] = deque()
        self._sizes: list[int] = []
        self._expected: deque[int] | None = None
        """What the next draws will be, where the caller has said so."""
        self._early: dict[int, Any] = {}
        """The first samples of this order, by the seeds under which they were read."""

    @property
    def length(self) -> int:
        return len(self._indices)

    @property
    def is_apart(self) -> bool:
        if self._apart is None:
            kind = self._reader.served.indexing
            self._apart = kind is Indexing.ONE_BY_ONE or (
                kind is Indexing.MANY and self._gives_samples()
            )
        return self._apart

    def _gives_samples(self) -> bool:
        """Whether ``__getitems__`` gives one entry an index, rather than a batch."""
        for count in (2, 3):
            few = range(min(count, self.length))
            read = self._ask(Want.SAMPLES, few).result()
            if not isinstance(read, (list, tuple)) or len(read) != len(few):
                return False
        return True

    @property
    def notes(self) -> tuple[Caveat, ...]:
        if not self._reader.refusal:
            return ()
        return (Caveat("batches.no_workers", reason=self._reader.refusal),)

    @property
    def block(self) -> int:
        if self._reader.workers:
            return 4 * self._reader.workers
        return 1 if self.patience.expected_seconds(1) > _SLOW else _AT_ONCE

    def available(self, wanted: int) -> int:
        return min(wanted, self.length, EAGER)

    def read_ahead(self, wanted: int, in_time: Callable[[], bool]) -> None:
        """The length is known."""

    def fetch(self, positions: Sequence[int]) -> list[Any]:
        return self._spread(Want.SAMPLES, positions)

    def extents(self, positions: Sequence[int]) -> list[Extent]:
        return self._spread(Want.EXTENTS, positions)

    def batch(self, positions: Sequence[int]) -> Batch:
        return self._ask(Want.BATCH, positions).result()

    def indices_at(self, positions: Sequence[int]) -> list[int]:
        """The dataset's indices behind positions of the fixed order."""
        return [self._indices[self._fixed[position]] for position in positions]

    def _ask(self, want: Want, positions: Sequence[int]) -> Ticket:
        seeds = tuple(self._seed + position for position in positions)
        return self._reader.submit(Request(want, tuple(self.indices_at(positions)), seeds))

    def _spread(self, want: Want, positions: Sequence[int]) -> list[Any]:
        """Over all workers at once."""
        started = self.patience.clock()
        parts = portions(positions, self._reader.workers)
        found = self._collected([self._ask(want, part) for part in parts])
        self.patience.took(len(found), self.patience.clock() - started)
        return found

    def _collected(self, tickets: Sequence[Ticket]) -> list[Any]:
        found: list[Any] = []
        for ticket in tickets:
            part = ticket.result()
            found += part
            self._sharing.note(ticket)
            self.patience.note(len(part))
        return found

    def rewind(self, seed: int) -> None:
        self._forget()
        if seed != self._order.seed:
            self._early.clear()
        self._order.rewind(seed)
        self._sizes, self._expected = [], None

    def expect(self, sizes: Sequence[int]) -> None:
        self._expected = deque(sizes)
        if any(each.size != size for each, size in zip(self._planned, sizes, strict=False)):
            self._forget()

    def _forget(self) -> None:
        """What was read ahead is not wanted: it will be drawn again."""
        for planned in reversed(self._planned):
            planned.coming.drop()
            self._order.back_to(planned.before)
        self._planned.clear()

    def draw(self, size: int) -> Batch:
        for _ in range(_EMPTY_IN_A_ROW):
            batch = self._drawn(size)
            if batch is not None:
                return batch
        raise CannotBuildBatch(
            f"expected samples; {_EMPTY_IN_A_ROW} batches of {size} in a row contained only "
            f"missing samples (None): check the dataset, or {MAKE_LOADER}"
        )

    def _drawn(self, size: int) -> Batch | None:
        if self._planned and self._planned[0].size != size:
            self._forget()
        was_ready = bool(self._planned)
        if not was_ready or self.patience.is_over():
            self.patience.check(size)
        started = self.patience.clock()
        planned = self._planned.popleft() if was_ready else self._plan(size, is_waited_for=True)
        self._sizes.append(size)
        if self._expected and self._expected.popleft() != size:
            self._expected = None
        self._read_ahead()
        drawn = planned.coming.drawn
        if not planned.coming.tickets:
            early = [fresh(self._early[seed]) for _, seed in drawn]
            return self._sharing.joined(planned.coming, [early])
        answers = self._sharing.wait(planned.coming)
        seconds = None if was_ready else self.patience.clock() - started
        self.patience.note(size, sum(each.size for each in self._planned), seconds)
        if self._is_early(planned.before, size):
            samples = [fresh(sample) for part in answers for sample in part]
            if all(bytes_in(sample) <= _MOST_EARLY_BYTES for sample in samples):
                self._early.update(zip((seed for _, seed in drawn), samples, strict=True))
        return self._sharing.joined(planned.coming, answers)

    def _is_early(self, before: Mark, size: int) -> bool:
        one_by_one = self._reader.served.indexing is Indexing.ONE_BY_ONE
        return one_by_one and before.drawn + size <= _EARLY

    def _plan(self, size: int, *, is_waited_for: bool = False) -> _Planned:
        """Put the next draw on its way: as one batch, or in parts where one worker would be slow.

        That is where nothing is under way yet, and where the batch is larger than the user's. The
        first samples of an order are read one by one, once.
        """
        before = self._order.mark()
        drawn = self._drawn_in_order(size)
        alone = self._reader.workers > 1 and (is_waited_for or size > 2 * self._base)
        in_parts = alone and size > 1 and self.is_apart
        if self._is_early(before, size):
            in_parts = True
            if all(seed in self._early for _, seed in drawn):
                return _Planned(before, Coming(drawn, [], in_parts))
        return _Planned(before, self._sharing.begin(drawn, in_parts=in_parts))

    def _read_ahead(self) -> None:
        """As many draws as the user's loader would have under way, no more than are likely."""
        if self._expected is None:
            most = min(self._reader.ahead, 2 * (len(self._sizes) - 1))
            coming = expected_sizes(self._sizes, most)
        else:
            coming = list(itertools.islice(self._expected, self._reader.ahead))
        budget = self._reader.ahead * max(self._base, 1)
        for count, size in enumerate(coming):
            budget -= size
            if count < len(self._planned):
                continue
            if size > self.length or (budget < 0 and self._planned):
                break
            self._planned.append(self._plan(size))

    def draw_samples(self, count: int) -> list[Any]:
        self._forget()
        self.patience.check(count)
        started = self.patience.clock()
        coming = self._sharing.begin(self._drawn_in_order(count), in_parts=True)
        found = self._collected(coming.tickets)
        self.patience.took(count, self.patience.clock() - started)
        return found

    def _drawn_in_order(self, count: int) -> Drawn:
        """The next indices, each with the seed under which it is read."""
        first, salt = self._order.drawn, self._order.seed + 1
        positions = self._order.draw(count)
        return [
            (self._indices[position], hash((salt, first + turn)))
            for turn, position in enumerate(positions)
        ]

    def follow(self, loader: Iterable[Batch]) -> Iterable[Batch]:
        if self._reader.workers and type(loader) is DataLoader and loader.batch_sampler is not None:
            return Followed(self._reader, self._sharing, loader, self.patience)
        return loader

    def close(self) -> None:
        self._planned.clear()
        self._reader.close()


def expected_sizes(sizes: Sequence[int], count: int) -> list[int]:
    """The ``count`` sizes that come next, by the shortest cycle that the latest ones repeat."""
    for lag in range(1, min(_LONGEST_CYCLE, len(sizes) // 2) + 1):
        if list(sizes[-lag:]) == list(sizes[-2 * lag : -lag]):
            cycle = sizes[-lag:]
            return [cycle[turn % lag] for turn in range(count)]
    return [sizes[-1]] * count if sizes else []
