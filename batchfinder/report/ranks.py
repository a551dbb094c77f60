"""A row for each of several ranks, where they differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchfinder.rank_facts import RankFacts, deciding_rank, do_differ, slowest_rank, waiting_shares
from batchfinder.results import Limit
from batchfinder.table import Row, Table
from batchfinder.units import format_bytes, format_size
from batchfinder.wording import sentence

if TYPE_CHECKING:
    from batchfinder.report.data import ReportData

__all__ = ["rank_table", "ranks_sentence"]

MOST_ROWS = 8


def ranks_sentence(report: ReportData) -> str:
    """How many ranks there are, and whether they differ; nothing for one process."""
    if not report.ranks:
        return ""
    numbers = {"size": len(report.ranks)}
    table = rank_table(report)
    if table is None:
        return sentence("ranks.alike", numbers)
    return sentence("ranks.rows", {**numbers, "shown": len(table.rows)})


def rank_table(report: ReportData) -> Table | None:
    """Device, memory and waiting of each rank; ``None`` where the ranks are alike.

    Of more than ``MOST_ROWS`` ranks, the one that decides, the slowest, and the first.
    """
    facts, seconds = report.ranks, sum(taken for _, taken in report.seconds)
    slowest = slowest_rank(facts, seconds)
    columns = (
        {each.device_name for each in facts},
        {each.ran_out for each in facts},
        {None, slowest},
    )
    amounts = ([each.limit_bytes for each in facts], [each.room_bytes for each in facts])
    if all(len(each) < 2 for each in columns) and not any(do_differ(each) for each in amounts):
        return None
    decides = deciding_rank(facts) if report.probe.limited_by is Limit.MEMORY else None
    notes = {decides: ["decides the largest size"]} if decides is not None else {}
    if slowest is not None:
        notes.setdefault(slowest, []).append("slowest")
    first = sorted(range(len(facts)), key=lambda at: (facts[at].rank not in notes, at))
    kept = set(first[:MOST_ROWS])
    header = (
        "rank",
        "device",
        "memory limit",
        f"left at {format_size(report.max_batch_size)}",
        "ran out",
        "waited",
        "note",
    )
    shares = waiting_shares(facts, seconds)
    rows = tuple(
        Row(_cells(facts[at], shares[at], notes.get(facts[at].rank, [])))
        for at in range(len(facts))
        if at in kept
    )
    return Table(header, rows)


def _cells(facts: RankFacts, share: float, notes: list[str]) -> tuple[str, ...]:
    name = facts.device_name
    return (
        str(facts.rank),
        f"{facts.device} ({name})" if name else facts.device,
        format_bytes(facts.limit_bytes),
        "-" if facts.room_bytes is None else format_bytes(facts.room_bytes),
        f"{facts.ran_out} time{'s' * (facts.ran_out != 1)}",
        f"{100 * share:.0f}% of the call",
        ", ".join(notes),
    )
