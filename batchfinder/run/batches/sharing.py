"""Who makes a batch: one worker the whole of it, or all workers its samples, joined here."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch.utils.data import DataLoader

from batchfinder.protocols import Batch, Clock
from batchfinder.run.batches.requests import Indexing, Reader, Request, Ticket, Want
from batchfinder.run.batches.stores import Patience
from batchfinder.run.randomness import kept, reseed

__all__ = ["Coming", "Drawn", "Followed", "Sharing", "portions"]


Drawn = Sequence[tuple[Any, int]]
"""Indices of the dataset, each with the seed under which it is read."""

LONG_SECONDS = 0.5
"""A batch that takes one worker longer is shared out: short requests cost more than they save."""
MOST_JOINING = 0.25
"""Of the time in which all workers together read a sample, for its part in joining them here."""


@dataclass(eq=False)
class Coming:
    """A batch whose requests are under way."""

    drawn: Drawn
    tickets: list[Ticket]
    in_parts: bool

    @property
    def size(self) -> int:
        return len(self.drawn)

    def drop(self) -> None:
        """It is not wanted any more."""
        for ticket in self.tickets:
            ticket.drop()


class Sharing:
    """Batches as the user's loader makes them, whoever reads them.

    A worker that makes a whole batch sends it as the user's does, but where a sample takes long
    the first batch is there only when one worker has read all of it, and the last ones are read by
    a few. Samples read by all are there sooner; joining them costs this process time instead.
    """

    def __init__(self, reader: Reader, *, clock: Clock = time.perf_counter) -> None:
        self._reader, self._clock = reader, clock
        self._reading: deque[float] = deque(maxlen=9)
        self._joining: deque[float] = deque(maxlen=9)

    def begin(self, drawn: Drawn, *, in_parts: bool = False) -> Coming:
        """Put the requests for a batch on their way.

        ``in_parts``: read by all workers whatever a sample takes.
        """
        count = len(drawn)
        in_parts = in_parts or self.is_worth_it(count)
        if not in_parts:
            return Coming(drawn, [self._request(Want.BATCH, drawn)], in_parts)
        parts = portions(range(count), self._reader.workers)
        tickets = [self._request(Want.SAMPLES, [drawn[at] for at in part]) for part in parts]
        return Coming(drawn, tickets, in_parts)

    def is_worth_it(self, count: int) -> bool:
        """Whether a batch of ``count`` is there sooner where all workers read at it.

        Not where the dataset is asked for many at once, which may take as long as for few.
        """
        workers = self._reader.workers
        if workers < 2 or not self._reading:
            return False
        if self._reader.served.indexing is not Indexing.ONE_BY_ONE:
            return False
        a_sample = median(self._reading)
        joining = median(self._joining) if self._joining else 0.0
        return count * a_sample > LONG_SECONDS and joining < MOST_JOINING * a_sample / workers

    def wait(self, coming: Coming) -> list[Any]:
        """What the workers answer."""
        answers = [ticket.result() for ticket in coming.tickets]
        for ticket in coming.tickets if coming.in_parts else ():
            self.note(ticket)
        return answers

    def note(self, ticket: Ticket) -> None:
        """A worker has read samples; how long it took for each."""
        if ticket.seconds:
            self._reading.append(ticket.seconds / len(ticket.request.indices))

    def joined(self, coming: Coming, answers: Sequence[Any]) -> Batch | None:
        """The batch; ``None`` where every sample of it is broken."""
        if not coming.in_parts:
            return answers[0]
        samples = [sample for part in answers for sample in part]
        if all(sample is None for sample in samples):
            return None
        started = self._clock()
        with kept():
            reseed(hash(tuple(seed for _, seed in coming.drawn)))
            batch = self._reader.served.collate(samples)
        self._joining.append((self._clock() - started) / len(samples))
        return batch

    def _request(self, want: Want, drawn: Drawn) -> Ticket:
        indices, seeds = tuple(index for index, _ in drawn), tuple(seed for _, seed in drawn)
        return self._reader.submit(Request(want, indices, seeds))


def portions(places: Sequence[int], workers: int) -> list[Sequence[int]]:
    """``places`` in consecutive parts of about the same size, no more than there are workers."""
    step = max(1, -(-len(places) // max(1, workers)))
    return [places[at : at + step] for at in range(0, len(places), step)]


class Followed:
    """The batches of a loader in its own order, read by workers that run already."""

    prefetch_factor = 1

    def __init__(
        self, reader: Reader, sharing: Sharing, loader: DataLoader[Any], patience: Patience
    ) -> None:
        self.num_workers = reader.workers
        self._reader, self._sharing = reader, sharing
        self._loader, self._patience = loader, patience

    def __iter__(self) -> Iterator[Batch]:
        # As the loader does, which draws a seed for its workers before its sampler draws
        torch.empty((), dtype=torch.int64).random_(generator=self._loader.generator)
        sampler = self._loader.batch_sampler  # not by its truth, which asks for its length
        numbered = enumerate(() if sampler is None else sampler)
        flying: deque[Coming] = deque()
        try:
            while True:
                for number, indices in itertools.islice(numbered, self._wanted(len(flying))):
                    drawn = [(each, hash((number, turn))) for turn, each in enumerate(indices)]
                    flying.append(self._sharing.begin(drawn))
                if not flying:
                    return
                coming = flying.popleft()
                answers = self._sharing.wait(coming)
                self._patience.note(coming.size, sum(each.size for each in flying))
                batch = self._sharing.joined(coming, answers)
                if batch is not None:
                    yield batch
        finally:
            for coming in flying:
                coming.drop()

    def _wanted(self, flying: int) -> int:
        return max(0, max(1, self._reader.ahead) - flying)
