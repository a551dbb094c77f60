"""A report for a terminal: the table, the choice, the reason. Nothing needs colour."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from batchfinder.report.race import race_sentence
from batchfinder.report.rows import format_noise, format_rate, legend, measurement_table
from batchfinder.results import BatchPlan, Confirmation, Environment, Limit
from batchfinder.table import render, wrap
from batchfinder.units import format_bytes, format_count, format_size

if TYPE_CHECKING:
    from batchfinder.report.record import Report

__all__ = ["caveat_list", "choice", "findings", "headline", "screen_width", "sentence", "text"]

NARROW, WIDE = 80, 120
_LABEL = 12
_ENDED_BY = {
    Limit.DATASET: "the dataset, not memory, ended the search: it fills no larger batch",
    Limit.USER: "your ceiling, not memory, ended the search: nothing larger was tried",
    Limit.TIME: "time, not memory, ended the search: nothing larger was tried",
    Limit.INDEX: "a kernel's index limit, not memory, ended the search",
}
_TWICE = {None: "", True: "; twice the rate held too", False: ""}
"""Where twice the rate did not hold, the confirmation's reason says so."""


def screen_width() -> int:
    """Columns to fill: the terminal's, never under 80 or over 120; 80 where there is none."""
    return max(NARROW, min(WIDE, shutil.get_terminal_size((NARROW, 24)).columns))


def text(report: Report, width: int | None = None) -> str:
    """The whole report at ``width`` columns (default: the terminal's)."""
    width = width or screen_width()
    lines = [wrap(headline(report), width), ""]
    if report.measurements:
        lines += [render(measurement_table(report, wide=width >= WIDE), width)]
        lines += [wrap(legend(report), width, "  "), ""] if legend(report) else [""]
    lines += [
        wrap(said, width, f"{label:<{_LABEL}}", " " * _LABEL) for label, said in findings(report)
    ]
    lines += caveat_list(report, width)
    return "\n".join(lines)


def headline(report: Report) -> str:
    """Where the figures come from, in one line."""
    where, limit = surroundings(report.environment), format_bytes(report.memory.limit_bytes)
    said = "" if limit in where else f"; memory limit {limit}"
    return f"batchfinder on {where}{said}"


def surroundings(environment: Environment) -> str:
    name = environment.device_name
    device = f"{environment.device} ({name})" if name else environment.device
    threads = f"{environment.threads} thread{'s' * (environment.threads != 1)}"
    parts = (device, f"torch {environment.torch}", threads, environment.optimizer)
    return ", ".join(part for part in (*parts, environment.precision) if part)


def findings(report: Report) -> Iterator[tuple[str, str]]:
    """Label and sentence of everything below the table, in the order of interest."""
    yield "Chosen", choice(report)
    yield "Why", report.recommendation.reason
    if report.limited_by.value not in report.recommendation.reason:
        yield "Limited by", report.limited_by.value
    if (tied := tied_sentence(report)) is not None:
        yield "Near ties", tied
    if report.noise_scale is not None:
        yield "Noise scale", noise_sentence(report)
    yield "Memory", memory_sentence(report)
    if report.race is not None and report.race.arms:
        yield "Race", race_sentence(report.race)
    if report.confirmation is not None:
        yield "Confirmed" if report.confirmation.held else "NOT HELD", _held(report.confirmation)
    yield "Put back", restored_sentence(report)


def choice(report: Report) -> str:
    """The choice in one sentence: sizes, accumulation, devices, learning rate and its rule."""
    plan = report.recommendation.plan
    whole = f"batch size {plan_words(plan)}"
    if plan.global_batch > plan.micro_batch:
        whole += f" = {format_size(plan.global_batch)} {report.unit} per optimizer step"
    return f"{whole}; {learning_rate_sentence(report)}"


def plan_words(plan: BatchPlan) -> str:
    """``"1,024 x 16 accumulation steps x 2 devices"``; factors of one are left out."""
    parts = [format_size(plan.micro_batch)]
    if plan.accumulation_steps > 1:
        parts.append(f"{plan.accumulation_steps} accumulation steps")
    if plan.world_size > 1:
        parts.append(f"{plan.world_size} devices")
    return " x ".join(parts)


def tied_sentence(report: Report) -> str | None:
    """The sizes that the measurements cannot tell from the choice; ``None`` where there is none."""
    low, high = report.recommendation.within_noise or (0, 0)
    if low == high:
        return None
    return (
        f"{format_size(low)} to {format_size(high)} {report.unit} per optimizer step cannot be"
        " told from the choice with these measurements"
    )


def learning_rate_sentence(report: Report) -> str:
    """``"learning rate 0.00141 (square_root, from 0.001 at 32)"``."""
    if report.learning_rate is None:
        return "learning rate: none is known, so none is recommended"
    source = f"rule {report.learning_rate_rule}"
    if report.base_learning_rate is not None and report.base_batch_size is not None:
        base = format_rate(report.base_learning_rate)
        source += f", from {base} at {format_size(report.base_batch_size)}"
    return f"learning rate {format_rate(report.learning_rate)} ({source})"


def noise_sentence(report: Report) -> str:
    noise = report.noise_scale
    if noise is None:
        return "not measured"
    spent = f"estimated by {noise.estimator} from {format_count(noise.samples)} samples"
    if not noise.is_bounded:
        return f"at least {format_count(noise.low)} {noise.unit}; no upper end is known ({spent})"
    return f"{format_noise(noise)} {noise.unit}, {noise.confidence:.0%} interval; {spent}"


def memory_sentence(report: Report) -> str:
    """The largest that fitted, and what ended the search there: memory, or something else."""
    limit, size = format_bytes(report.memory.limit_bytes), format_size(report.max_batch_size)
    ended = _ENDED_BY.get(report.probe.limited_by)
    trials = f"({len(report.trials)} trials)"
    if ended is not None:
        return f"{size} ran and fitted in {limit}; {ended} {trials}"
    too_large = [
        trial.batch_size
        for trial in report.trials
        if not trial.fits and trial.batch_size > report.max_batch_size
    ]
    largest = f"{size} is the largest that ran and fitted in {limit}"
    if too_large:
        largest += f"; {format_size(min(too_large))} did not fit"
    return f"{largest} {trials}"


def _held(confirmation: Confirmation) -> str:
    steps = f"{confirmation.steps} optimizer steps of {confirmation.plan}"
    rate = confirmation.learning_rate
    at = "" if rate is None else f" at learning rate {format_rate(rate)}"
    return f"{steps}{at}: {confirmation.reason}{_TWICE[confirmation.double_rate_held]}"


def restored_sentence(report: Report) -> str:
    if report.state_restored:
        return "exactly: a digest of everything touched, before and after, agrees"
    return "NO: the digests before and after differ; see the caveats"


def caveat_list(report: Report, width: int) -> list[str]:
    """The caveats as a bulleted list, or nothing."""
    if not report.caveats:
        return []
    return ["Caveats", *(wrap(sentence(each), width, "  - ", "    ") for each in report.caveats)]


def sentence(text: str) -> str:
    """``text`` with a capital first letter, unless it begins with a name from code."""
    word = text.split(" ", 1)[0]
    return text if "_" in word or "(" in word else f"{text[:1].upper()}{text[1:]}"
