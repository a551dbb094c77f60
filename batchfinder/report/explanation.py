"""A report in plain words: what binds, where memory goes, what the alternatives cost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from batchfinder.report.rows import candidate_table
from batchfinder.report.text import (
    answer,
    caveat_list,
    choice,
    memory_sentence,
    noise_sentence,
    race_sentences,
    screen_width,
    tied_sentence,
)
from batchfinder.results import Candidate, MemoryBreakdown
from batchfinder.table import render, wrap
from batchfinder.units import format_bytes, format_seconds, format_size
from batchfinder.wording import capitalized
from batchfinder.wording.advice import advice
from batchfinder.wording.choice import (
    RELAXED,
    learning_rate_sentence,
    limit_sentence,
    plan_words,
    singular,
    why_sentence,
)
from batchfinder.wording.rates import groups_sentence

if TYPE_CHECKING:
    from batchfinder.report.data import ReportData

__all__ = ["alternatives", "explain", "memory_sentences", "other_changes", "sections"]


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


_HOW_TO_READ = (
    "Below, {what}, as multiples of the choice's; a batch written as a x b x c is batch size x"
    " accumulation steps x devices. Times come from a curve fitted to all timings, so their "
    "order may differ from that of the measured throughputs."
)


def explain(report: ReportData, width: int | None = None) -> str:
    """Every section under a title of its own, at ``width`` columns (default: the terminal's)."""
    width = width or screen_width()
    blocks = []
    for title, sentences in sections(report):
        blocks.append("\n".join([title, *(wrap(each, width, "  ") for each in sentences)]))
        if title == "Alternatives":
            blocks.append(render(candidate_table(report), width))
    if others := other_changes(report):
        bullets = (wrap(each, width, "  - ", "    ") for each in others)
        blocks.append("\n".join(["What else to change", *bullets]))
    if report.caveats:
        blocks.append("\n".join(caveat_list(report, width)))
    return "\n\n".join(blocks)


def sections(report: ReportData) -> Iterator[tuple[str, list[str]]]:
    """Titles, each with the sentences under it."""
    chosen, why = choice(report), capitalized(why_sentence(report.recommendation))
    yield "The choice", [answer(report), f"Batch size {chosen}. {why}."]
    limit = report.limited_by
    yield "What limits it", [f"{capitalized(limit_sentence(limit))}. {RELAXED[limit]}"]
    what = f"time is per {singular(report.unit)}"
    if any(math.isfinite(each.relative_samples) for each in report.candidates):
        what = f"time and {report.unit} are those needed to reach the same loss"
    if others := [alternatives(report, each) for each in interesting(report)]:
        yield "Alternatives", [*others, _HOW_TO_READ.format(what=what)]
    yield "The learning rate", list(_learning_rate(report))
    if report.race is not None:
        yield "The race of learning rates", list(race_sentences(report.race))
    yield "Memory", list(memory_sentences(report))
    yield "What was measured", list(_measured(report))


def other_changes(report: ReportData) -> tuple[str, ...]:
    """What else to change when the batch size does."""
    return tuple(advice(report.recommendation.change, report.recommendation.plan, report.unit))


def interesting(report: ReportData) -> list[Candidate]:
    """The candidates not chosen that somebody may want: those with a role, or else all of them."""
    others = [each for each in report.candidates if not each.chosen]
    return [each for each in others if each.roles] or others


def alternatives(report: ReportData, candidate: Candidate) -> str:
    """One candidate's price: "512 would reach the target 3% sooner, for 1.9x the samples".

    Where the noise scale is not known only the time per sample is.
    """
    name = format_size(candidate.plan.global_batch)
    if candidate.plan.global_batch > candidate.plan.micro_batch:
        name += f" as {plan_words(candidate.plan)}"
    if candidate.roles:
        name += f" ({', '.join(role.value for role in candidate.roles)})"
    memory, time = _memory_words(report, candidate), candidate.relative_time
    if math.isfinite(time) and not math.isfinite(candidate.relative_samples):
        return f"{name} takes {time:.2f}x the time per {singular(report.unit)}{memory}."
    samples, energy = samples_words(report, candidate), _energy_words(report, candidate)
    return f"{name} would reach the target {time_words(time)}{samples}{energy}{memory}."


def _energy_words(report: ReportData, candidate: Candidate) -> str:
    """The trade of time against energy, where the device reports its energy."""
    chosen = next((each for each in report.candidates if each.chosen), None)
    reference = None if chosen is None else chosen.energy_to_target
    joules = candidate.energy_to_target
    if joules is None or not reference:
        return ""
    return f", for {joules / reference:.2f}x the energy"


def time_words(ratio: float) -> str:
    """``0.97`` as "3% sooner", ``1.4`` as "40% later", ``3`` as "in 3x the time"."""
    if not math.isfinite(ratio):
        return "in an unknown time"
    if abs(ratio - 1) < 0.005:
        return "in the same time"
    if ratio >= 2:
        return f"in {ratio:.1f}x the time"
    return f"{100 * abs(ratio - 1):.0f}% {'sooner' if ratio < 1 else 'later'}"


def samples_words(report: ReportData, candidate: Candidate) -> str:
    ratio = candidate.relative_samples
    if not math.isfinite(ratio):
        return ""
    if abs(ratio - 1) < 0.005:
        return f", for as many {report.unit}"
    if ratio >= 1.5:
        return f", for {ratio:.1f}x the {report.unit}"
    more = "more" if ratio > 1 else "fewer"
    return f", for {100 * abs(ratio - 1):.0f}% {more} {report.unit}"


def _memory_words(report: ReportData, candidate: Candidate) -> str:
    chosen = next((each for each in report.candidates if each.chosen), None)
    if chosen is None or chosen.peak_bytes is None or candidate.peak_bytes is None:
        return ""
    difference = candidate.peak_bytes - chosen.peak_bytes
    if abs(difference) < 0.01 * chosen.peak_bytes:
        return ""
    more = "more" if difference > 0 else "less"
    return f", with {format_bytes(abs(difference))} {more} memory"


def _learning_rate(report: ReportData) -> Iterator[str]:
    yield f"{capitalized(learning_rate_sentence(report.recommendation))}."
    if groups := groups_sentence(report.rates):
        yield f"{capitalized(groups)}."
    if report.recommendation.learning_rate_range is not None:
        low, high = report.recommendation.learning_rate_range
        yield (
            f"The rules were tested for global batches from {format_size(low)} to"
            f" {format_size(high)}. This is a starting point, not a tuned rate."
        )


def _measured(report: ReportData) -> Iterator[str]:
    fitted = sum(trial.fits for trial in report.trials)
    yield (
        f"Memory: {memory_sentence(report)}. Every trial ran whole training steps; {fitted}"
        f" of {len(report.trials)} fit."
    )
    if report.measurements:
        yield f"Throughput: {len(report.measurements)} sizes, medians with 90% intervals."
    if report.noise_scale is not None:
        yield f"Noise scale: {noise_sentence(report)}."
    if (tied := tied_sentence(report)) is not None:
        yield f"Undecided: {tied}."
    if report.seconds:
        spent = ", ".join(f"{stage} {format_seconds(time)}" for stage, time in report.seconds)
        yield f"Time spent: {spent}."
