"""Trainings under frameworks on two ranks: as after a launcher, over gloo."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from framework_cases import SHORT

from batchfinder import Report

__all__ = ["as_launched", "one_report", "searching"]

WORLD = 2


def as_launched(rank: int) -> None:
    """What ``torchrun`` puts into the environment; the process group is there already."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(WORLD),
        LOCAL_WORLD_SIZE=str(WORLD),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="29501",
        ACCELERATE_USE_CPU="true",
    )


def searching(rank: int, **changed: Any) -> dict[str, Any]:
    """Options of a short search in which rank 1 has less memory."""
    return {**SHORT, "memory_limit": ("96MiB", "80MiB")[rank], "budget_seconds": 3, **changed}


def one_report(every: Sequence[dict[str, Any]]) -> Report:
    """The same on every rank, after which training goes on as without a search."""
    one, other = every
    assert one["report"] == other["report"]
    assert one["applied"] == other["applied"]
    for each in (one, other):
        assert each["with"] == each["without"]
    report: Report = one["report"]
    assert report.world_size == WORLD
    assert report.memory.limit_bytes == 80 * 2**20
    return report
