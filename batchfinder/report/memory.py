"""Where the memory goes, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from batchfinder.results import MemoryBreakdown
from batchfinder.units import format_bytes, format_size

if TYPE_CHECKING:
    from batchfinder.report.data import ReportData

__all__ = ["memory_sentences"]

_LOOSE = 0.02
"""A line that misses a trial by more than this share is reported to."""


def memory_sentences(report: ReportData) -> Iterator[str]:
    """What is held between steps, what a sample adds, and what stays free at the choice."""
    memory = report.memory
    yield f"Allocated between steps: {_held(memory)}."
    if memory.per_sample_bytes > 0:
        yield _line(memory)
    if memory.headroom_bytes is not None:
        share = memory.headroom_bytes / memory.limit_bytes
        yield (
            f"At the recommended size {format_bytes(memory.headroom_bytes)} of "
            f"{format_bytes(memory.limit_bytes)} remain free ({100 * share:.0f}%)."
        )
    with_ddp = report.probe.max_batch_size_with_ddp
    if with_ddp is not None and report.environment.device.partition(":")[0] in ("cuda", "xpu"):
        yield (
            "With DistributedDataParallel on this model: "
            f"{format_bytes(memory.gradient_bytes)} more for its gradient buckets (none with "
            f"gradient_as_bucket_view=True), at most {format_size(with_ddp)}."
        )
    if report.probe.ordinary_peak_bytes is not None:
        yield (
            "The samples vary in length: the largest batch, of typical samples, peaks at "
            f"{format_bytes(report.probe.ordinary_peak_bytes)}."
        )


def _held(memory: MemoryBreakdown) -> str:
    parts = (
        ("parameters", memory.parameter_bytes),
        ("buffers", memory.buffer_bytes),
        ("gradients", memory.gradient_bytes),
        ("optimizer state", memory.optimizer_bytes),
        ("workspace and other", memory.other_bytes),
        ("this process outside torch", memory.non_torch_bytes),
        ("other processes on the device", memory.other_processes_bytes),
    )
    return ", ".join(f"{name} {format_bytes(count)}" for name, count in parts if count)


def _line(memory: MemoryBreakdown) -> str:
    said = (
        f"The peak follows {format_bytes(memory.fixed_bytes)} + "
        f"{format_bytes(memory.per_sample_bytes)} per sample"
    )
    if memory.fit_residual > _LOOSE:
        missed = f"{100 * memory.fit_residual:.0f}%"
        return f"{said}, but is off by {missed} at one trial: memory does not grow linearly here."
    return f"{said}, within {100 * max(memory.fit_residual, 0.001):.1f}% of every trial."
