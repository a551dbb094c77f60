"""What a prediction cannot see on a GPU, and sets aside; and the sizes that then fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from batchfinder.errors import CannotPredict
from batchfinder.predict.answers import MOST, Allowance, MemoryPrediction
from batchfinder.predict.assumed import UNSIZED
from batchfinder.predict.rehearsal import Footprint, Rehearsal
from batchfinder.predict.root import largest_within

__all__ = ["Target", "predictions", "unseen_by"]

PEAK_ERROR = 0.05
"""An allowance for the error of a predicted peak, relatively; it is not a measured error.

Measured on the CPU against the ledger, on eight models: at most 0.011%
(tests/benchmarks/prediction.py). Allocated on an H200 under bf16 autocast, ResNet-50 at 399 to 505:
0.4% (predicted from a CPU).
"""

CONTEXT_BYTES = 768 * 2**20
"""The context and the libraries' own memory: 767 MiB on an H200 with driver 580 and torch 2.11."""

WORKSPACE_BYTES = 64 * 2**20
"""cuBLAS takes 8.1 MiB per stream, cuBLASLt 32 MiB on Hopper (pytorch issue 120925)."""

FRAGMENTATION = 0.03
"""Of the peak. At the largest size that trained, ResNet-50 in 24 GB on an H200, reserved memory was
1.7% above allocated: near the limit the allocator gives back what it can."""

WORST_FRAGMENTATION = 0.1
"""For the lower end of the range: reserved memory before the allocator has settled."""


@dataclass(frozen=True)
class Target:
    """Where the step would run: a device's name, whether it is a GPU, and its total memory."""

    name: str
    is_gpu: bool
    memory_bytes: int = 0


def unseen_by(peak_bytes: int, *, is_gpu: bool) -> tuple[Allowance, ...]:
    """What comes on top of a peak of ``peak_bytes``; nothing on a CPU."""
    if not is_gpu:
        return ()
    return (
        Allowance("the device's context and the libraries' own memory", CONTEXT_BYTES),
        Allowance("workspaces of matrix products and convolutions", WORKSPACE_BYTES),
        Allowance("fragmentation", int(FRAGMENTATION * peak_bytes)),
    )


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
                    "expected a step whose memory has a known size before it runs; found that "
                    f"{next(iter(unknown))}. On the device itself max_batch_size measures it"
                )
            self.known[key] = found
        return self.known[key]

    def assumed(self) -> Iterator[str]:
        for found in self.known.values():
            yield from found.assumed
        yield from self.rehearsal.kernel_notes

    def smallest(self, budget: float) -> Footprint:
        """A small step; of a single sample where more are too many for ``budget``."""
        found = self.at(self.rehearsal.shape.small_size)
        if found.peak_bytes > budget:
            with suppress(CannotPredict):  # a batch norm cannot do with one
                return self.at(1)
        return found


def _predicted(peaks: _Peaks, target: Target, dataset_samples: int | None) -> MemoryPrediction:
    fixed = CONTEXT_BYTES + WORKSPACE_BYTES if target.is_gpu else 0
    usual = 1 / (1 + FRAGMENTATION) if target.is_gpu else 1.0
    worst = 1 / (1 + WORST_FRAGMENTATION) if target.is_gpu else 1.0
    surely = worst / (1 + PEAK_ERROR)
    smallest = peaks.smallest((target.memory_bytes - fixed) * surely)

    def within(share: float, set_aside: int, pessimistic: bool = False) -> int:
        return largest_within(
            lambda size: peaks.at(size, pessimistic).peak_bytes,
            int((target.memory_bytes - set_aside) * share),
            (smallest.batch_size, MOST),
            smallest.at_rest_bytes,
        )

    chosen = within(usual, fixed)
    peak = peaks.at(chosen or smallest.batch_size).peak_bytes
    return MemoryPrediction(
        batch_size=chosen,
        high=within(1.0, 0),
        low=within(surely, fixed, pessimistic=True),
        device=target.name,
        memory_bytes=target.memory_bytes,
        allowances=unseen_by(peak, is_gpu=target.is_gpu),
        peak_bytes=peak,
        peak_error=PEAK_ERROR,
        assumed=tuple(dict.fromkeys(peaks.assumed())),
        smallest=smallest.batch_size,
        dataset_samples=dataset_samples,
    )
