"""Memory, race and ranks of a report, in words and rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from batchfinder.rank_facts import RankFacts, deciding_rank, do_differ, slowest_rank, waiting_shares
from batchfinder.results import Limit, MemoryBreakdown, RaceArm, RaceResult
from batchfinder.table import Row, Table
from batchfinder.units import format_bytes, format_size
from batchfinder.wording import sentence

if TYPE_CHECKING:
    from batchfinder.report.data import ReportData

__all__ = ["memory_sentences", "race_sentence", "race_sentences", "rank_table", "ranks_sentence"]


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
            f"{format_bytes(memory.limit_bytes)} stay free ({100 * share:.0f}%)."
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
        ("this process outside of torch", memory.non_torch_bytes),
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
        return f"{said}, but misses a trial by {missed}: memory does not grow linearly here."
    return f"{said}, within {100 * max(memory.fit_residual, 0.001):.1f}% of every trial."


def race_sentence(race: RaceResult) -> str:
    """What came of it, in one sentence."""
    if race.best_rate is None:
        return race.refusal or ""
    return sentence(
        "race.result",
        {
            "rates": len({arm.learning_rate for arm in race.arms}),
            "taken": race.steps_taken,
            "batch": race.batch,
            "best": race.best_rate,
            "steps": race.steps,
            "held": race.held_out_samples,
            "averaged": race.averaged,
            "run_steps": race.run_steps,
            "rate": race.learning_rate,
            "rule_rate": race.rule_rate,
        },
    )


def race_sentences(race: RaceResult) -> Iterator[str]:
    """Everything: what came of it, every arm, and what to do where the run's length changes."""
    yield race_sentence(race)
    if race.arms:
        yield sentence("race.arms", {"arms": "; ".join(map(_arm, race.arms))})
    if race.best_rate is not None:
        yield sentence("race.longer", {"exponent": race.exponent})


def _arm(arm: RaceArm) -> str:
    numbers = {"rate": arm.learning_rate, "loss": arm.loss, "steps": arm.steps}
    return sentence("race.arm", {**numbers, "again": arm.order > 1, "ran_away": arm.ran_away})


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
