"""Results of single functions as text: what ``print`` shows of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from batchfinder.table import Row, Table, render, wrap
from batchfinder.units import format_bytes, format_count, format_seconds, format_size

__all__ = ["evaluated", "noise_scale", "searched"]

_WIDTH = 88


def searched(
    trials: Iterable[tuple[int, str, int | None, float]],
    *,
    largest: int,
    limited_by: str,
    limit_bytes: int,
    fixed_bytes: int,
    per_sample_bytes: float,
    caveats: Sequence[str] = (),
) -> str:
    """The trials of a search as a table, and the largest size that fits above it."""
    rows = [
        (
            size,
            Row(
                (
                    format_size(size),
                    "-" if peak is None else format_bytes(peak),
                    format_seconds(seconds),
                    outcome,
                ),
                chosen=size == largest,
            ),
        )
        for size, outcome, peak, seconds in trials
    ]
    ordered = tuple(row for _, row in sorted(rows, key=lambda each: each[0]))
    table = Table(("batch size", "peak memory", "trial", "outcome"), ordered)
    memory = f"Limit: {format_bytes(limit_bytes)}."
    if per_sample_bytes > 0:
        memory += (
            f" Memory: {format_bytes(fixed_bytes)} + {format_bytes(per_sample_bytes)} per sample."
        )
    return _joined(
        f"Largest batch size that fits: {format_size(largest)}, limited by {limited_by}.",
        table,
        (memory, *_notes(caveats)),
    )


def evaluated(
    measured: Iterable[tuple[int, float, float, float, int | None]],
    *,
    chosen: int,
    largest: int,
    limit_bytes: int,
    unit: str,
    caveats: Sequence[str] = (),
) -> str:
    """The sizes that were timed for evaluation as a table, and the choice above it.

    ``measured`` are size, throughput, its lower and upper end, and peak memory.
    """
    rows = tuple(
        Row(
            (
                format_size(size),
                format_count(rate),
                f"{format_count(low)}-{format_count(high)}",
                "-" if peak is None else format_bytes(peak),
            ),
            chosen=size == chosen,
        )
        for size, rate, low, high, peak in measured
    )
    table = Table(("batch size", f"{unit}/s", "interval", "peak memory"), rows)
    return _joined(
        f"Batch size for evaluation: {format_size(chosen)}; largest that fits: "
        f"{format_size(largest)}.",
        table,
        (f"Limit: {format_bytes(limit_bytes)}.", *_notes(caveats)),
    )


def noise_scale(
    *,
    value: float,
    low: float,
    high: float,
    confidence: float,
    unit: str,
    estimator: str,
    samples: int,
    micro_batch: int,
    after_steps: int,
    caveats: Sequence[str] = (),
) -> str:
    """A gradient noise scale with its interval and how it was estimated."""
    bounded = high < float("inf")
    known = f"{format_count(value)} {unit}" if bounded else f"at least {format_count(low)} {unit}"
    rows = [
        ("interval", f"{format_count(low)} to {format_count(high)} ({confidence:.0%})"),
        ("samples spent", format_size(samples)),
        ("micro-batch", format_size(micro_batch)),
        ("warm-up", f"{format_size(after_steps)} steps"),
        ("estimator", estimator),
    ]
    lines = [f"  {name:<14}{said}" for name, said in rows]
    first = f"Gradient noise scale: {known}"
    return "\n".join([first, *lines, *_notes(caveats)])


def _joined(first: str, table: Table, after: Iterable[str]) -> str:
    return "\n".join([wrap(first, _WIDTH), render(table, _WIDTH), *after])


def _notes(caveats: Iterable[str]) -> list[str]:
    return [wrap(f"- {caveat}", _WIDTH, hanging="  ") for caveat in caveats]
