"""Results of single functions as text: what ``print`` shows of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from batchfinder.table import Row, Table, render, wrap
from batchfinder.units import format_bytes, format_count, format_rate, format_seconds, format_size

__all__ = ["confirmed", "evaluated", "noise_scale", "raced", "recommended", "searched"]

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


def recommended(
    candidates: Iterable[tuple[str, bool, float, float, float | None, int | None, Sequence[str]]],
    *,
    plan: str,
    rate: float | None,
    limited_by: str,
    caveats: Sequence[str] = (),
) -> str:
    """What could be recommended as a table, and the choice above it.

    ``candidates`` are plan, whether it is the choice, time and samples as multiples of the
    choice's, learning rate, peak memory and roles.
    """
    rows = tuple(
        Row(
            (
                name,
                f"{time:.2f}x",
                f"{samples:.2f}x" if math.isfinite(samples) else "-",
                "-" if at is None else format_rate(at),
                "-" if peak is None else format_bytes(peak),
                ", ".join(("chosen",) * chosen + tuple(roles)),
            ),
            chosen=chosen,
        )
        for name, chosen, time, samples, at, peak, roles in candidates
    )
    header = ("batch size", "time", "samples", "learning rate", "peak memory", "note")
    at = "" if rate is None else f" at learning rate {format_rate(rate)}"
    return _joined(
        f"Recommended: batch size {plan}{at}; limited by {limited_by}.",
        Table(header, rows).without_empty_columns(),
        _notes(caveats),
    )


def confirmed(
    *,
    plan: str,
    rate: float | None,
    held: bool,
    rows: Iterable[tuple[str, float | None, int, str, float, float]],
) -> str:
    """What was trained to confirm a choice: each branch with its losses.

    ``rows`` are the branch, its rate, its steps, how it went, first and last loss.
    """
    at = "" if rate is None else f" at learning rate {format_rate(rate)}"
    table = Table(
        ("branch", "learning rate", "steps", "outcome", "first loss", "last loss"),
        tuple(
            Row(
                (
                    branch,
                    "-" if its is None else format_rate(its),
                    format_size(steps),
                    went,
                    *(f"{loss:.4g}" if math.isfinite(loss) else "-" for loss in (first, last)),
                )
            )
            for branch, its, steps, went, first, last in rows
        ),
    )
    return _joined(
        f"{'Confirmed' if held else 'Not confirmed'}: batch size {plan}{at}.",
        table.without_empty_columns(),
        (),
    )


def raced(
    arms: Iterable[tuple[float, float, int, int]],
    *,
    rate: float,
    batch: int,
    rule_rate: float,
    caveats: Sequence[str] = (),
) -> str:
    """The arms of a race as a table, and the learning rate above it.

    ``arms`` are learning rate, held-out loss, steps and order of the data.
    """
    rows = tuple(
        Row(
            (
                format_rate(at),
                f"{loss:.4g}" if math.isfinite(loss) else "diverged",
                format_size(steps),
                str(order),
            )
        )
        for at, loss, steps, order in sorted(arms)
    )
    return _joined(
        f"Learning rate {format_rate(rate)} at batch size {format_size(batch)}; the rule's is "
        f"{format_rate(rule_rate)}.",
        Table(("learning rate", "held-out loss", "steps", "data order"), rows),
        _notes(caveats),
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
