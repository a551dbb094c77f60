"""Sentences about several processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from batchfinder.units import format_bytes

__all__ = ["SENTENCES"]


def _begin(size: int, wrapper: str) -> str:
    return f"{size} ranks search together ({wrapper or 'bare module'})"


def _decides(rank: int, limit: int) -> str:
    return (
        f"rank {rank} determines the largest batch size: it has the least memory left, of a limit "
        f"of {format_bytes(limit)}"
    )


def _memory(rank: int, least: int, most: int) -> str:
    return (
        f"rank {rank} has the least memory, {format_bytes(least)}, while another has "
        f"{format_bytes(most)}: its limit applies to all ranks"
    )


def _waited(rank: int, share: float) -> str:
    return (
        f"rank {rank} is the slowest: others waited for it for up to {100 * share:.0f}% of the "
        "call, and the step times are those of this rank"
    )


def _rows(size: int, shown: int) -> str:
    said = f"{size} train together; they differ"
    return said if shown == size else f"{said} ({shown} shown, all in report.ranks)"


SENTENCES: Mapping[str, str | Callable[..., str]] = {
    "ranks.begin": _begin,
    "ranks.decides": _decides,
    "ranks.memory": _memory,
    "ranks.waited": _waited,
    "ranks.rows": _rows,
    "ranks.alike": "{size} train together, with equal memory and equal speed",
    "ranks.devices": "the ranks' devices differ ({names}): the slowest sets the step time",
    "ranks.bare": (
        "the model is not wrapped for {size} ranks: timings and peak memory exclude gradient "
        "communication. Pass the wrapped model"
    ),
    "ranks.replicas": (
        "{size} ranks form {replicas} replicas: the global batch counts the samples of each "
        "replica once"
    ),
    "ranks.no_group": (
        "WORLD_SIZE={size}, but there is no process group: this process was treated as the only "
        "one. Call torch.distributed.init_process_group() first, on every rank"
    ),
}
