"""What the probe found: its trials, where the memory goes, and what they say together."""

from __future__ import annotations

import math
from dataclasses import dataclass

from batchfinder.html import Shown
from batchfinder.outcomes import Limit, Outcome
from batchfinder.wording import Caveat, summary

__all__ = ["MemoryBreakdown", "ProbeResult", "Trial"]


@dataclass(frozen=True)
class Trial:
    """Whole training steps, update included, at one micro-batch.

    ``peak_bytes`` is the most that tensors took during the trial, with what else the process holds
    on the device (for one that failed: up to the failure); ``None`` where it cannot be read. It is
    what grows with the batch size along a line, and comparable with the limit. ``disturbed`` marks
    a trial during which another process took or freed memory on the same device.
    """

    batch_size: int
    outcome: Outcome
    peak_bytes: int | None = None
    seconds: float = 0.0
    disturbed: bool = False
    note: str = ""
    reserved_bytes: int | None = None
    """Like ``peak_bytes``, of what a caching allocator had reserved: the blocks that it holds ready
    are in it. ``None`` where nothing is cached."""
    retries: int = 0
    """How often the allocator had to flush its cache and try again, over all steps."""
    step_seconds: float = 0.0
    """The fastest of its whole steps; 0 where none ended."""

    @property
    def fits(self) -> bool:
        return self.outcome is Outcome.FITS


@dataclass(frozen=True)
class MemoryBreakdown:
    """The components of the peak memory, in bytes.

    ``fixed_bytes + per_sample_bytes · batch`` is the line fitted through the trials' peaks, with
    ``fit_residual`` its largest relative error on them. ``other_bytes`` is what the line leaves
    after parameters, buffers, gradients and optimizer state (workspaces, temporaries).
    ``fragmentation_bytes`` are those that a caching allocator had reserved at the largest size, at
    its peak, beyond what tensors took at theirs.
    """

    parameter_bytes: int
    buffer_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    other_bytes: int
    limit_bytes: int
    fixed_bytes: int = 0
    per_sample_bytes: float = 0.0
    fit_residual: float = 0.0
    headroom_bytes: int | None = None
    non_torch_bytes: int = 0
    other_processes_bytes: int = 0
    fragmentation_bytes: int = 0

    def largest_by_line(self, more_bytes: int = 0) -> int | None:
        """The largest batch that the line allows, with ``more_bytes`` held; ``None`` without."""
        if self.per_sample_bytes <= 0:
            return None
        room = self.limit_bytes - self.fixed_bytes - more_bytes
        return max(0, int(room / self.per_sample_bytes))


@dataclass(frozen=True)
class ProbeResult(Shown):
    """The result of the probe. The largest size is computed from the trials."""

    trials: tuple[Trial, ...]
    memory: MemoryBreakdown
    limited_by: Limit
    ceiling: int | None = None
    caveats: tuple[Caveat, ...] = ()
    ordinary_peak_bytes: int | None = None
    """Where lengths vary: the peak of ordinary samples at the largest size, not the longest."""

    @property
    def max_batch_size(self) -> int:
        """The largest micro-batch that was run and fitted, at its last trial; 0 if none did."""
        last = {trial.batch_size: trial for trial in self.trials}
        return max((trial.batch_size for trial in last.values() if trial.fits), default=0)

    def __str__(self) -> str:
        return summary.searched(
            [
                (trial.batch_size, trial.outcome.words, trial.peak_bytes, trial.seconds)
                for trial in self.trials
            ],
            largest=self.max_batch_size,
            limited_by=self.limited_by.value,
            limit_bytes=self.memory.limit_bytes,
            fixed_bytes=self.memory.fixed_bytes,
            per_sample_bytes=self.memory.per_sample_bytes,
            caveats=self.caveats,
        )

    @property
    def max_batch_size_with_ddp(self) -> int | None:
        """The largest micro-batch by the memory line once DistributedDataParallel wraps the model.

        Its buckets hold the gradients a second time, unless ``gradient_as_bucket_view=True``.
        """
        memory, largest = self.memory, self.max_batch_size
        by_line = memory.largest_by_line(memory.gradient_bytes)
        if by_line is None:
            return None
        if self.limited_by is Limit.MEMORY:
            by_line = largest - math.ceil(memory.gradient_bytes / memory.per_sample_bytes)
        return max(0, min(by_line, largest))
