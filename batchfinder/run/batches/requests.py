"""What can be asked of the user's dataset, and how the user's loader would answer it."""

from __future__ import annotations

import io
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import torch

from batchfinder.run.batches.lengths import extent_of
from batchfinder.run.randomness import kept, reseed
from batchfinder.run.tree import MAKE_LOADER

__all__ = ["Here", "Indexing", "Reader", "Request", "Served", "Ticket", "Want", "packed"]


class Want(Enum):
    """What a request asks for."""

    SAMPLES = "the samples; from another process as bytes, with the seconds that they took"
    EXTENTS = "how long each sample is, in the same way"
    BATCH = "the batch that the collate function makes of them"


@dataclass(frozen=True)
class Request:
    """Indices of the dataset; each is read under a seed of its own, so that it repeats."""

    want: Want
    indices: tuple[Any, ...]
    seeds: tuple[int, ...]
    place: int = 0
    """Of its mark in ``Served.unwanted``."""


class Indexing(Enum):
    """How the loader asks its dataset for samples."""

    ONE_BY_ONE = "dataset[index]"
    MANY = "dataset.__getitems__(indices)"
    BY_LIST = "dataset[indices], which gives a batch"


@dataclass
class Served:
    """A dataset that answers requests: what ``DataLoader`` does to make a batch, and its parts."""

    dataset: Any
    collate: Callable[[Any], Any]
    indexing: Indexing
    is_remote: bool = False
    unwanted: torch.Tensor | None = None
    """In memory shared with the processes that read: not 0 where an answer is not wanted."""

    def __getitem__(self, request: Request | None) -> Any:
        """What one request asks for; inside ``randomness.kept`` where it is not remote."""
        if request is None or self._is_unwanted(request.place):
            return None
        started = time.monotonic()
        read = self.read(request.indices, request.seeds, request.place)
        seconds = time.monotonic() - started
        if read is None and self._is_unwanted(request.place):
            return None
        if request.want is Want.BATCH:
            reseed(hash(request.seeds))
            return None if _is_all_broken(read) else self.collate(read)
        if request.want is Want.EXTENTS:
            read = [extent_of(sample) for sample in read]
        return packed((seconds, read)) if self.is_remote else read

    def _is_unwanted(self, place: int) -> bool:
        return self.unwanted is not None and bool(self.unwanted[place])

    def read(self, indices: Sequence[Any], seeds: Sequence[int], place: int = 0) -> Any:
        """What the dataset gives for ``indices``, before it is collated; ``None`` if unwanted."""
        if self.indexing is Indexing.ONE_BY_ONE:
            found = []
            for index, seed in zip(indices, seeds, strict=True):
                if self._is_unwanted(place):
                    return None
                found.append(self._item(index, seed))
            return found
        reseed(hash(tuple(seeds)))
        with noted(self.dataset, indices):
            if self.indexing is Indexing.MANY:
                return self.dataset.__getitems__(list(indices))
            return self.dataset[list(indices)]

    def _item(self, index: Any, seed: int) -> Any:
        with noted(self.dataset, (index,)):
            reseed(seed)
            return self.dataset[index]


class noted:  # noqa: N801  # a context manager, cheaper than a generator for every sample
    """An error that comes out of a dataset gets a note of what was read."""

    def __init__(self, dataset: Any, indices: Sequence[Any]) -> None:
        self.dataset, self.indices = dataset, indices

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception):
            which = self.indices[0] if len(self.indices) == 1 else f"{self.indices[0]}, …"
            error.add_note(
                f"while reading sample {which} of {type(self.dataset).__name__} for a batch; to "
                f"build batches in another way, {MAKE_LOADER}"
            )


def packed(read: Any) -> bytes | None:
    """As bytes rather than shared memory, of which a hundred samples would need a hundred files.

    ``None`` where they cannot be sent at all, as an open file.
    """
    sent = io.BytesIO()
    try:
        _Packer(sent, protocol=pickle.HIGHEST_PROTOCOL).dump(read)
    except (pickle.PicklingError, TypeError, AttributeError):
        return None
    return sent.getvalue()


class _Packer(pickle.Pickler):
    """A tensor is sent without the rest of its storage: a row of a data set in memory is small."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is not torch.Tensor or value.layout is not torch.strided:
            return NotImplemented
        if value.untyped_storage().nbytes() <= value.numel() * value.element_size():
            return NotImplemented
        own: Any = value.detach().clone().requires_grad_(value.requires_grad)
        return own.__reduce_ex__(pickle.HIGHEST_PROTOCOL)


def _is_all_broken(read: Any) -> bool:
    """Whether a dataset that gives ``None`` for broken samples gave nothing else."""
    return isinstance(read, list) and bool(read) and all(sample is None for sample in read)


@dataclass(eq=False)
class Ticket:
    """A request on its way; asking for the answer waits for it."""

    request: Request
    reader: Reader
    answer: Any = None
    error: Exception | None = None
    seconds: float = 0.0
    """What reading took another process, where it has told."""
    done: bool = False
    dropped: bool = False

    def result(self) -> Any:
        if not self.done:
            self.reader.finish(self)
        if self.error is not None:
            raise self.error
        return self.answer

    def drop(self) -> None:
        """The answer is not wanted any more."""
        self.dropped, self.answer = True, None
        self.reader.give_up(self)


class Reader(Protocol):
    """Answers requests in order."""

    served: Served

    @property
    def refusal(self) -> str:
        """Why worker processes could not be had; empty where they were or none were wanted."""
        ...

    @property
    def workers(self) -> int:
        """Processes that read beside this one."""
        ...

    @property
    def ahead(self) -> int:
        """Requests worth having under way at once."""
        ...

    def submit(self, request: Request) -> Ticket: ...
    def finish(self, ticket: Ticket) -> None:
        """Fill in the answer, or the error."""
        ...

    def give_up(self, ticket: Ticket) -> None:
        """Its answer is not wanted: what of it was not read yet need not be."""
        ...

    def close(self) -> None: ...


@dataclass
class Here:
    """Reads in this process, when the answer is asked for."""

    served: Served
    workers: int = 0
    ahead: int = 0
    refusal: str = ""

    def submit(self, request: Request) -> Ticket:
        return Ticket(request, self)

    def finish(self, ticket: Ticket) -> None:
        ticket.done = True
        with kept():
            ticket.answer = self.served[ticket.request]

    def give_up(self, ticket: Ticket) -> None:
        """It is read when it is asked for."""

    def close(self) -> None:
        pass
