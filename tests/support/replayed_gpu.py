"""A driver that plays back what an H200 did near its limit: it retries, settles and fragments so.

The rows of ``edge_on_an_h200.jsonl`` were taken outside of this library, by plain steps at each
size under one cap. Between two of them sizes are interpolated, below the smallest one the line of
allocated bytes goes on; above the largest that ran, everything fails.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from device_cases import GIB, GpuTraining

ROWS = [
    json.loads(line)
    for line in Path(__file__).with_name("edge_on_an_h200.jsonl").read_text().splitlines()
]
MACHINE = ROWS[0]
LIMIT = 24 * 10**9
EXPANDABLE = "expandable_segments:True"


@dataclass
class ReplayedGpu:
    """One H200 under a limit of 24 GB, ``conf`` being its allocator's setting."""

    conf: str = ""
    total: int = int(139.8 * GIB)
    fraction: float = 1.0
    retries: int = 0
    peak_allocated: int = 0
    peak_reserved: int = 0
    at_rest: int = 200 * 10**6
    steps: int = 0
    """Steps since the cache was last emptied."""
    rows: dict[int, dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        edge = [row for row in ROWS if row["name"] == "edge" and row["conf"] == self.conf]
        self.rows = {row["size"]: row for row in edge}

    def train(self, size: int) -> None:
        """One training step at ``size``, as it was measured."""
        assert abs(self.fraction * self.total - (LIMIT - MACHINE["outside_bytes"])) < 2**20
        row = self.row(size)
        self.retries += row["retries"][min(self.steps, len(row["retries"]) - 1)]
        self.steps += 1
        self.peak_allocated = max(self.peak_allocated, row["alloc"])
        self.peak_reserved = max(self.peak_reserved, row["reserved"])
        if not row["ok"]:
            idle = (row["reserved"] - row["alloc"]) / 2**20
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 784.00 MiB. GPU 0 has a total capacity of "
                f"139.80 GiB. Of the allocated memory {row['alloc'] / GIB:.2f} GiB is allocated by "
                f"PyTorch, and {idle:.2f} MiB is reserved by PyTorch but unallocated."
            )

    def row(self, size: int) -> dict[str, Any]:
        if size in self.rows:
            return self.rows[size]
        sizes = sorted(self.rows)
        ran = [each for each in sizes if self.rows[each]["ok"]]
        if size > ran[-1]:
            return {**self.rows[sizes[-1]], "ok": False, "retries": [4]}
        if size < ran[0]:
            slope, first = self.slope(), self.rows[ran[0]]
            allocated = first["alloc"] - slope * (ran[0] - size)
            idle = (first["reserved"] - first["alloc"]) * size / ran[0]
            return {**first, "alloc": int(allocated), "reserved": int(allocated + idle)}
        below = max(each for each in ran if each < size)
        above = min(each for each in ran if each > size)
        share = (size - below) / (above - below)
        low, high = self.rows[below], self.rows[above]
        return {
            **high,
            **{
                name: int(low[name] + share * (high[name] - low[name]))
                for name in ("alloc", "reserved")
            },
        }

    def slope(self) -> float:
        """Allocated bytes per sample."""
        ran = [row for row in self.rows.values() if row["ok"]]
        rise = ran[-1]["alloc"] - ran[0]["alloc"]
        return float(rise / (ran[-1]["size"] - ran[0]["size"]))

    # what a driver offers

    def synchronize(self) -> None: ...

    def empty_cache(self) -> None:
        self.steps = 0

    def memory_allocated(self) -> int:
        return self.at_rest

    memory_reserved = memory_allocated

    def max_memory_allocated(self) -> int:
        return self.peak_allocated

    def max_memory_reserved(self) -> int:
        return self.peak_reserved

    def reset_peak_memory_stats(self) -> None:
        self.peak_allocated = self.peak_reserved = self.at_rest

    def memory_stats(self) -> dict[str, Any]:
        return {"num_alloc_retries": self.retries}

    def mem_get_info(self) -> tuple[int, int]:
        return self.total - MACHINE["outside_bytes"] - self.at_rest, self.total

    def get_fraction(self) -> float:
        return self.fraction

    def set_fraction(self, fraction: float) -> bool:
        self.fraction = fraction
        return True

    def device_name(self) -> str:
        return str(MACHINE["device"])


class ReplayedTraining(GpuTraining):
    """The training whose steps were measured."""

    gpu: ReplayedGpu  # type: ignore[assignment]  # another driver

    def forward_backward(self, batch: list[int], scale: float = 1.0) -> torch.Tensor:
        self.gpu.train(len(batch))
        return torch.zeros(())
