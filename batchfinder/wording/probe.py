"""Sentences about the search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from batchfinder.units import format_bytes, format_seconds, format_size

__all__ = ["ENDED", "SENTENCES"]

ENDED: Mapping[str, str] = {
    "FITS": "fits",
    "OUT_OF_MEMORY": "ran out of memory",
    "AT_THE_EDGE": "ran, but the allocator kept flushing its cache: too close to the limit",
    "INDEX_LIMIT": "exceeded an index or grid limit of a kernel, regardless of memory",
    "KILLED": "its process was killed by the operating system",
}
"""How a trial ended, by the name of its ``Outcome``."""


def _time(size: int, seconds: float) -> str:
    return (
        f"larger batches were not tried: a step at {format_size(size)} would take "
        f"{format_seconds(seconds)}"
    )


def _fragmented(size: int, bytes: int) -> str:  # noqa: A002  # the name of the number
    return (
        f"at {format_size(size)} the allocator holds {format_bytes(bytes)} in blocks that no "
        "tensor uses (fragmentation)"
    )


def _expandable(size: int, bytes: int, with_expandable: int) -> str:  # noqa: A002  # likewise
    return (
        f"{_fragmented(size, bytes)}: about {format_size(with_expandable)} may fit with "
        "`PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True`"
    )


def _lengths(size: int, longest_bytes: int, ordinary_bytes: int) -> str:
    return (
        f"the samples vary in length: trials used the {format_size(size)} longest (peak "
        f"{format_bytes(longest_bytes)}); {format_size(size)} typical samples need "
        f"{format_bytes(ordinary_bytes)}"
    )


def _disturbed(sizes: Sequence[int]) -> str:
    return (
        "another process allocated or freed memory on the device during the trial of batch size "
        f"{', '.join(map(format_size, sizes))}, so the true maximum may differ; rerun with "
        "exclusive use of the device"
    )


SENTENCES: Mapping[str, str | Callable[..., str]] = {
    "probe.time": _time,
    "probe.fragmented": _fragmented,
    "probe.expandable": _expandable,
    "probe.lengths": _lengths,
    "probe.disturbed": _disturbed,
    "probe.remembered": (
        "the largest size comes from the cache ({path}) and was re-verified with one trial; memory "
        "figures also use the cached trials"
    ),
}
