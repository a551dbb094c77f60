"""What a prediction cannot see on a GPU, and sets aside; and the sizes that then fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from batchfinder.errors import CannotPredict
from batchfinder.predict.answers import MOST, Allowance, MemoryPrediction
from batchfinder.predict.assumed import UNSIZED
from batchfinder.predict.guess import largest_within
from batchfinder.predict.rehearsal import Footprint, Rehearsal

__all__ = ["Target", "predictions", "unseen_by"]

PEAK_ERROR = 0.05
"""An allowance for the error of a predicted peak, relatively; it is not a measured error.

Measured on the CPU against the ledger, on eight models: at most 0.011%
(tests/benchmarks/prediction.py). Allocated on an H200 under bf16 autocast, four trainings at their
largest sizes: at most 0.8% (predicted from a CPU).
"""

CONTEXT_BYTES = 768 * 2**20
"""The context and the libraries' own memory: 767 MiB on an H200 with driver 580 and torch 2.11."""

WORKSPACE_BYTES = 64 * 2**20
"""cuBLAS takes 8.1 MiB per stream, cuBLASLt 32 MiB on Hopper (pytorch issue 120925)."""

FRAGMENTATION = 0.65
"""Of the largest tensor: near the limit the allocator gives back what it can, but for a block that
is too small for the next large one. Chosen on four trainings at the largest size that ran on an
H200, where reserved memory was above allocated memory by 0.4, 0.4, 0.6 and 0.6 of the largest
tensor (ResNet-50, a UNet, GPT-2 small, a character GPT); none was held out."""

WORST_FRAGMENTATION = 0.1
"""Of the peak, if that is more, for the lower end: before the allocator has settled."""


@dataclass(frozen=True)
class Target:
    """Where the step would run: a device's name, whether it is a GPU, and its total memory."""

    name: str
    is_gpu: bool
    memory_bytes: int = 0


def unseen_by(step: Footprint, *, is_gpu: bool) -> tuple[Allowance, ...]:
    """What comes on top of the peak of ``step``; nothing on a CPU."""
    if not is_gpu:
        return ()
    return (
        Allowance("device context and library memory", CONTEXT_BYTES),
        Allowance("workspaces for matrix products and convolutions", WORKSPACE_BYTES),
        Allowance("fragmentation", _fragmentation(step)),
    )


def _fragmentation(step: Footprint) -> int:
    return int(FRAGMENTATION * step.largest_block_bytes)


def _worst_fragmentation(step: Footprint) -> int:
    return max(int(WORST_FRAGMENTATION * step.peak_bytes), _fragmentation(step))


def _none(_: Footprint) -> int:
    return 0


def predictions(
    rehearsal: Rehearsal, targets: Iterable[Target], dataset_samples: int | None = None
) -> tuple[MemoryPrediction, ...]:
    """The largest batch for every target, by one rehearsal: a peak is asked for once a size.

    Raises:
        CannotPredict: where a part of the step's memory is of no known size.
    """
    peaks = _Peaks(rehearsal)
    return tuple(_predicted(peaks, target, dataset_samples) for target in targets)


@dataclass(frozen=True)
class _Peaks:
    """Peaks by size and by whether uncertain kernels count as the dearer ones."""

    rehearsal: Rehearsal
    known: dict[tuple[int, bool], Footprint] = field(default_factory=dict)

    def at(self, size: int, pessimistic: bool = False) -> Footprint:
        key = size, pessimistic and bool(self.rehearsal.uncertain)
        if key not in self.known:
            found = self.rehearsal.at(size, pessimistic=key[1])
            unknown = UNSIZED.intersection(found.assumed)
            if unknown:
                raise CannotPredict(
                    "expected a step whose memory use is known before it runs; found that "
                    f"{next(iter(unknown))}. On the device itself, use max_batch_size, which "
                    "measures it"
                )
            self.known[key] = found
        return self.known[key]

    def assumed(self) -> Iterator[str]:
        for found in self.known.values():
            yield from found.assumed
        yield from self.rehearsal.kernel_notes

    def smallest(self, fits: Callable[[Footprint], bool]) -> Footprint:
        """A small step; of a single sample where more are too many."""
        found = self.at(self.rehearsal.shape.small_size)
        if not fits(found):
            with suppress(CannotPredict):  # a batch norm cannot do with one
                return self.at(1)
        return found


def _predicted(peaks: _Peaks, target: Target, dataset_samples: int | None) -> MemoryPrediction:
    fixed = CONTEXT_BYTES + WORKSPACE_BYTES if target.is_gpu else 0
    in_pieces = _fragmentation if target.is_gpu else _none
    at_worst = _worst_fragmentation if target.is_gpu else _none
    room = target.memory_bytes - fixed
    smallest = peaks.smallest(
        lambda step: (1 + PEAK_ERROR) * step.peak_bytes + at_worst(step) <= room
    )

    def within(
        set_aside: int, lost: Callable[[Footprint], int], *, pessimistic: bool = False
    ) -> int:
        def needed(size: int) -> int:
            step = peaks.at(size, pessimistic)
            error = 1 + PEAK_ERROR if pessimistic else 1.0
            return int(error * step.peak_bytes) + lost(step)

        limit = target.memory_bytes - set_aside
        return largest_within(needed, limit, (smallest.batch_size, MOST), smallest.at_rest_bytes)

    chosen = within(fixed, in_pieces)
    at_it = peaks.at(chosen or smallest.batch_size)
    return MemoryPrediction(
        batch_size=chosen,
        high=within(0, _none),
        low=within(fixed, at_worst, pessimistic=True),
        device=target.name,
        memory_bytes=target.memory_bytes,
        allowances=unseen_by(at_it, is_gpu=target.is_gpu),
        peak_bytes=at_it.peak_bytes,
        peak_error=PEAK_ERROR,
        assumed=tuple(dict.fromkeys(peaks.assumed())),
        smallest=smallest.batch_size,
        dataset_samples=dataset_samples,
    )
