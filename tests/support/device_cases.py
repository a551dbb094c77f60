"""A stand-in for a GPU: a caching allocator that fragments and retries, on a card that is shared.

The rules are those of torch's CUDA allocator in outline: blocks of 512 bytes, segments of 2 MiB
for small requests, 20 MiB below 10 MiB, else rounded to 2 MiB; a freed segment is cached; where
the driver refuses or the cap forbids, the cache is flushed and the request tried again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from memory_cases import CPU

from batchfinder.protocols import Ranks
from batchfinder.run.ranks import ALONE

MIB = 1024**2
GIB = 1024**3


def segment_size(size: int) -> int:
    if size <= MIB:
        return 2 * MIB
    if size < 10 * MIB:
        return 20 * MIB
    return -(-size // (2 * MIB)) * 2 * MIB


@dataclass
class FakeGpu:
    """One card, and one process's allocator on it."""

    total: int = 16 * GIB
    context: int = 300 * MIB
    others: int = 0
    spills: bool = False
    fraction: float = 1.0
    calls: list[str] = field(default_factory=list)
    in_use: list[int] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    allocated: int = 0
    peak_allocated: int = 0
    peak_reserved: int = 0
    retries: int = 0
    readable_fraction: bool = True

    def reserved(self) -> int:
        return sum(self.in_use) + sum(self.cached)

    def allocate(self, size: int) -> int:
        """Take ``size`` bytes; the segment, to be given back to ``free``."""
        segment = segment_size(size)
        fitting = [each for each in self.cached if each >= segment]
        if fitting:
            segment = min(fitting)
            self.cached.remove(segment)
        else:
            self._take(segment, size)
        self.in_use.append(segment)
        self.allocated += -(-size // 512) * 512
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        self.peak_reserved = max(self.peak_reserved, self.reserved())
        return segment

    def free(self, segment: int, size: int) -> None:
        self.in_use.remove(segment)
        self.cached.append(segment)
        self.allocated -= -(-size // 512) * 512

    def _take(self, segment: int, size: int) -> None:
        if self._refused(segment) and self.cached:
            self.retries += 1
            self.cached.clear()
        if self._refused(segment):
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes.")

    def _refused(self, segment: int) -> bool:
        over_cap = self.reserved() + segment > self.fraction * self.total
        return over_cap or (not self.spills and segment > self.free_bytes())

    def free_bytes(self) -> int:
        return max(self.total - self.others - self.context - self.reserved(), 0)

    # what a driver offers

    def synchronize(self) -> None:
        self.calls.append("synchronize")

    def empty_cache(self) -> None:
        self.calls.append("empty_cache")
        self.cached.clear()

    def memory_allocated(self) -> int:
        return self.allocated

    def memory_reserved(self) -> int:
        return self.reserved()

    def max_memory_allocated(self) -> int:
        return self.peak_allocated

    def max_memory_reserved(self) -> int:
        return self.peak_reserved

    def reset_peak_memory_stats(self) -> None:
        self.calls.append("reset_peak")
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved()

    def memory_stats(self) -> dict[str, Any]:
        return {"num_alloc_retries": self.retries}

    def mem_get_info(self) -> tuple[int, int]:
        return self.free_bytes(), self.total

    def get_fraction(self) -> float | None:
        return self.fraction if self.readable_fraction else None

    def set_fraction(self, fraction: float) -> bool:
        self.calls.append("set_fraction")
        self.fraction = fraction
        return True

    def device_name(self) -> str:
        return "a pretended GPU"


@dataclass
class FakeNeighbours:
    """What NVML would tell of the card."""

    gpu: FakeGpu
    tells: bool = True

    def processes(self) -> tuple[Any, ...]:
        return ()

    def other_bytes(self, own_reserved: int) -> int | None:
        del own_reserved
        return self.gpu.others if self.tells else None


@dataclass
class GpuTraining:
    """A training step that takes ``per_sample`` bytes a sample of a ``FakeGpu``, in pieces."""

    gpu: FakeGpu
    per_sample: int = 10 * MIB
    pieces: int = 4
    disturb: int = 0
    device: torch.device = CPU
    updates_itself: bool = False
    ranks: Ranks = ALONE

    def parameters(self) -> list[torch.nn.Parameter]:
        return []

    def holdings(self) -> list[torch.Tensor]:
        return []

    def forward_backward(self, batch: list[int], scale: float = 1.0) -> torch.Tensor:
        del scale
        size = len(batch) * self.per_sample // self.pieces
        taken: list[int] = []
        try:
            taken.extend(self.gpu.allocate(size) for _ in range(self.pieces))
        finally:
            for segment in taken:
                self.gpu.free(segment, size)
        self.gpu.others += self.disturb
        return torch.zeros(())

    def loss_scale(self) -> float:
        return 1.0

    def update(self) -> None: ...

    def learning_rate(self) -> None: ...

    def scale_learning_rate(self, factor: float) -> None: ...

    def zero_grad(self) -> None: ...
