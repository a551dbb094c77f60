"""Memory and loader as all ranks have them, and what one rank trains with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch

from batchfinder.errors import RanksNotTogether
from batchfinder.protocols import (
    Batch,
    BatchSource,
    DeviceProcess,
    MemoryBackend,
    Ranks,
    Setup,
    TrainStep,
    Unit,
    WholeStep,
)
from batchfinder.run.ranks.agreed_step import AgreedStep, AgreedTrainStep
from batchfinder.run.ranks.calls import Wrapping
from batchfinder.wording import Caveat

__all__ = ["AgreedMemory", "AgreedSource", "joined", "joined_for_evaluation"]


class AgreedMemory:
    """A ``MemoryBackend`` that says the same on every rank.

    The limit is the smallest one. A rank's peak is moved by the difference of its own limit to the
    smallest, and the largest counts: exact for the rank with the least room, and convex in the
    batch as each rank's is.

    Args:
        memory: of this rank's device.
        ranks: who must have room.
        rooms: filled with what each rank had left, in order of rank, by the peak that was agreed.
    """

    def __init__(
        self, memory: MemoryBackend, ranks: Ranks, rooms: dict[int, tuple[int, ...]]
    ) -> None:
        self._own, self._ranks, self._rooms = memory, ranks, rooms
        self._limits = ranks.tell("the memory limit", memory.limit_bytes())

    @property
    def name(self) -> str:
        return self._own.name

    @property
    def is_simulated(self) -> bool:
        return self._own.is_simulated

    def limit_bytes(self) -> int:
        return min(self._limits)

    def held_bytes(self) -> int:
        return self._own.held_bytes()

    def peak_bytes(self) -> int:
        own = self._own.peak_bytes()
        if self._ranks.is_over:  # read while the call is being left
            return own
        return self._agreed("the peak", own)

    def reserved_peak_bytes(self) -> int | None:
        own = self._own.reserved_peak_bytes()
        if self._ranks.is_over or own is None:
            return own
        return self._agreed("the reserved peak", own)

    def _agreed(self, what: str, own: int) -> int:
        """The largest of all ranks' peaks, each as if its limit were the smallest."""
        told = self._ranks.tell(what, own)
        rooms = tuple(limit - each for each, limit in zip(told, self._limits, strict=True))
        peak = self.limit_bytes() - min(rooms)
        self._rooms[peak] = rooms
        return peak

    def reset_peak(self) -> None:
        self._own.reset_peak()

    def release(self) -> None:
        self._own.release()

    def synchronize(self) -> None:
        self._own.synchronize()

    def pressure(self) -> int:
        """The sum over ranks: it has grown where any rank's has."""
        return sum(self._ranks.tell("the allocators' retries", self._own.pressure()))

    def other_processes_bytes(self) -> int:
        return max(self._ranks.tell("other processes", self._own.other_processes_bytes()))

    def other_processes(self) -> Sequence[DeviceProcess]:
        return self._own.other_processes()

    def non_torch_bytes(self) -> int:
        return self._own.non_torch_bytes()

    def paused(self) -> AbstractContextManager[None]:
        return self._own.paused()

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        with self._ranks.guarded("making a batch"):
            self._own.hold(tensors)

    def capped(self) -> AbstractContextManager[None]:
        return self._own.capped()

    @contextmanager
    def watch(self, held: Iterable[torch.Tensor] = ()) -> Iterator[None]:
        with self._ranks.guarded("the memory limit"):
            watching = self._own.watch(held)
            del held
            watching.__enter__()
        try:
            yield
        except BaseException as error:
            if not watching.__exit__(type(error), error, error.__traceback__):
                raise
        else:
            with self._ranks.guarded("the memory limit"):
                watching.__exit__(None, None, None)


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


def joined(
    setup: Setup[WholeStep],
    ranks: Ranks,
    wrapping: Wrapping,
    *,
    rooms: dict[int, tuple[int, ...]] | None = None,
) -> Setup[WholeStep]:
    """The same where there is one process; else such that all ranks go the same way.

    ``rooms`` is filled as ``AgreedMemory`` says.
    """
    if ranks.alone:
        return setup
    return Setup(
        AgreedStep(setup.step, ranks, wrapping),
        AgreedSource(setup.source, ranks),
        AgreedMemory(setup.memory, ranks, {} if rooms is None else rooms),
    )


def joined_for_evaluation(
    setup: Setup[TrainStep], ranks: Ranks, wrapping: Wrapping
) -> Setup[TrainStep]:
    """As ``joined``, of a step that trains nothing."""
    if ranks.alone:
        return setup
    return Setup(
        AgreedTrainStep(setup.step, ranks, wrapping),
        AgreedSource(setup.source, ranks),
        AgreedMemory(setup.memory, ranks, {}),
    )
