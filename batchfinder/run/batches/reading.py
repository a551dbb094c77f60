"""The user's dataset read as the user's loader reads it: in its worker processes, or here.

A *request* names indices and what is wanted of them: the samples, how long each is, or the batch
that the loader's collate function makes of them. Worker processes are those of one ``DataLoader``
over the requests, with the user's own settings; they are started once and answer in order.
"""

from __future__ import annotations

import itertools
import pickle
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, get_worker_info

from batchfinder.errors import CannotBuildBatch
from batchfinder.run.batches.requests import (
    Here,
    Reader,
    Request,
    Served,
    Ticket,
    Want,
    packed,
)
from batchfinder.run.batches.workers import died, has_died, reading, stopped
from batchfinder.run.torch_internals.objects import replace_worker_info
from batchfinder.run.tree import MAKE_LOADER

__all__ = ["StreamedByWorkers", "Workers", "reader_for"]

_PLACES = 4096  # marks of requests that are not wanted, more than are ever under way at once
_MOST_AT_ONCE = 8  # samples of a stream that a worker sends at once: the first is waited for


class _Asked:
    """What a worker is told of itself; notes whether its share of the work was asked for."""

    def __init__(self, info: Any) -> None:
        self.info, self.asked = info, False

    def __getattr__(self, name: str) -> Any:
        self.asked = self.asked or name in {"id", "num_workers"}
        return getattr(self.info, name)


class _Listen:
    """The user's ``worker_init_fn``, after which ``get_worker_info`` says whether it is asked."""

    def __init__(self, own: Callable[[int], None] | None) -> None:
        self.own = own

    def __call__(self, worker: int) -> None:
        replace_worker_info(_Asked)
        if self.own is not None:
            self.own(worker)


def _packed_stream(samples: list[Any]) -> tuple[bool, bytes | None]:
    """Samples as bytes, and whether the stream has asked which worker reads it."""
    info: Any = get_worker_info()
    return bool(info.asked), packed(samples)


class _Prepare:
    """The user's ``worker_init_fn``, to which the dataset is the user's own."""

    def __init__(self, own: Callable[[int], None] | None) -> None:
        self.own = own

    def __call__(self, worker: int) -> None:
        info = get_worker_info()
        if info is not None and isinstance(info.dataset, Served):
            object.__setattr__(info, "dataset", info.dataset.dataset)
        if self.own is not None:
            self.own(worker)


def _as_it_is(answer: Any) -> Any:
    return answer


@dataclass
class _Feed:
    """The sampler of the workers' loader: never ends, and gives ``None`` where nothing waits."""

    waiting: deque[Ticket] = field(default_factory=deque)
    flying: deque[Ticket | None] = field(default_factory=deque)

    def __iter__(self) -> Iterator[Request | None]:
        return self

    def __next__(self) -> Request | None:
        ticket = self.waiting.popleft() if self.waiting else None
        while ticket is not None and ticket.dropped:
            ticket = self.waiting.popleft() if self.waiting else None
        self.flying.append(ticket)
        return None if ticket is None else ticket.request


class Workers:
    """Reads in worker processes set up as the user's: one set, from the first request to ``close``.

    Where they cannot be started ``refusal`` says why, and requests are answered in this process.
    """

    def __init__(self, loader: DataLoader[Any], served: Served) -> None:
        self.served = served
        self.refusal = ""
        self._user = loader
        self._feed = _Feed()
        self._loader: DataLoader[Any] | None = None
        self._answers: Iterator[Any] = iter(())
        self._unwanted = torch.zeros(0, dtype=torch.uint8)
        self._places = itertools.cycle(range(_PLACES))

    @property
    def workers(self) -> int:
        return 0 if self.refusal else int(self._user.num_workers)

    @property
    def ahead(self) -> int:
        return self.workers * (self._user.prefetch_factor or 2)

    def submit(self, request: Request) -> Ticket:
        if self._loader is None and not self.refusal:
            self._start()
        if self.refusal:
            return Here(self.served).submit(request)
        ticket = Ticket(replace(request, place=next(self._places)), self)
        self._unwanted[ticket.request.place] = 0
        self._feed.waiting.append(ticket)
        self._send()
        return ticket

    def _start(self) -> None:
        user = self._user
        unwanted: Any = torch.zeros(_PLACES, dtype=torch.uint8)
        self._unwanted = unwanted.share_memory_()
        served: Any = replace(self.served, is_remote=True, unwanted=self._unwanted)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's own, of what is raised all the same
                self._loader = DataLoader(
                    served,
                    batch_size=None,
                    sampler=self._feed,
                    collate_fn=_as_it_is,
                    num_workers=user.num_workers,
                    prefetch_factor=user.prefetch_factor,
                    pin_memory=user.pin_memory,
                    timeout=user.timeout,
                    worker_init_fn=_Prepare(user.worker_init_fn),
                    multiprocessing_context=user.multiprocessing_context,
                    generator=torch.Generator().manual_seed(0),
                )
                self._answers = iter(self._loader)
        except (TypeError, AttributeError, AssertionError, OSError, pickle.PicklingError) as error:
            self._loader = None
            self.refusal = f"{type(error).__name__}: {error}"

    def _send(self) -> None:
        """Put what waits on its way, in place of idle requests that come back."""
        while self._feed.waiting and self._feed.flying and self._feed.flying[0] is None:
            self._receive()

    def give_up(self, ticket: Ticket) -> None:
        if ticket in self._feed.waiting or ticket in self._feed.flying:
            self._unwanted[ticket.request.place] = 1

    def finish(self, ticket: Ticket) -> None:
        if ticket not in self._feed.waiting and ticket not in self._feed.flying:
            raise RuntimeError("a request was asked for after its reader was closed")
        while not ticket.done:
            self._receive()

    def _receive(self) -> None:
        """The next answer, which is that of the oldest request under way."""
        try:
            answer, error = next(self._answers), None
        except Exception as caught:
            if has_died(caught, self._answers):
                self.close()
                raise died(caught, self.workers) from caught
            if self._feed.flying[0] is None:  # a worker that cannot be prepared
                self.close()
                raise
            answer, error = None, caught
        ticket = self._feed.flying.popleft()
        if ticket is None or ticket.dropped:
            return
        if error is None and ticket.request.want is not Want.BATCH:
            answer = self._unpacked(ticket, answer)
        ticket.answer, ticket.error, ticket.done = answer, error, True

    def _unpacked(self, ticket: Ticket, answer: bytes | None) -> Any:
        if answer is None:
            return Here(self.served).submit(ticket.request).result()
        ticket.seconds, read = pickle.loads(answer)  # made by a worker of ours
        return read

    def close(self) -> None:
        """Stop the processes; a later request starts new ones."""
        self._unwanted.fill_(1)  # whatever is under way: they end after the sample in hand
        if self._loader is not None:
            stopped(self._loader, self._answers)
        self._loader, self._answers = None, iter(())
        self._feed.waiting.clear()
        self._feed.flying.clear()


def reader_for(loader: DataLoader[Any], served: Served) -> Reader:
    """Workers where the user's loader has them; else this process."""
    return Workers(loader, served) if loader.num_workers else Here(served)


class StreamedByWorkers:
    """The samples of a stream, read by the worker processes of the user's loader.

    Workers that all yield the same samples, since the stream does not ask which worker reads it,
    would give each sample several times: it is then read in this process, and ``repeats`` is set.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader, self.repeats = loader, False
        self._dataset: Any = loader.dataset
        self._at_once = min(loader.batch_size or 1, _MOST_AT_ONCE)

    @property
    def burst(self) -> int:
        """Samples that come at about the same time."""
        return max(1, self.loader.num_workers * self._at_once)

    def __call__(self) -> Iterator[Any]:
        if self.repeats:
            yield from self._dataset
            return
        user = self.loader
        twin: DataLoader[Any] = DataLoader(
            user.dataset,
            batch_size=self._at_once,
            collate_fn=_packed_stream,
            num_workers=user.num_workers,
            prefetch_factor=user.prefetch_factor,
            timeout=user.timeout,
            worker_init_fn=_Listen(user.worker_init_fn),
            multiprocessing_context=user.multiprocessing_context,
            generator=torch.Generator().manual_seed(0),
        )
        with reading(twin) as answers:
            first = list(itertools.islice(answers, 2))
            asked = all(told for told, _ in first)
            alike = len(first) == 2 and first[0][1] == first[1][1]
            self.repeats = user.num_workers > 1 and (alike or not asked)
            if not self.repeats:
                for _, answer in itertools.chain(first, answers):
                    if answer is None:
                        raise CannotBuildBatch(
                            "expected samples that worker processes can send; found some that "
                            f"cannot be pickled: {MAKE_LOADER}"
                        )
                    yield from pickle.loads(answer)  # made by a worker of ours
        if self.repeats:
            yield from self._dataset
