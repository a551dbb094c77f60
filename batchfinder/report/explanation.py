"""A report in plain words: what binds, what the alternatives cost, what else to change."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from batchfinder.report.checklist import checklist
from batchfinder.report.memory import memory_sentences
from batchfinder.report.race import race_sentences
from batchfinder.report.rows import candidate_table, format_rate
from batchfinder.report.text import (
    caveat_list,
    choice,
    memory_sentence,
    noise_sentence,
    plan_words,
    screen_width,
    sentence,
    tied_sentence,
)
from batchfinder.results import Candidate, Limit
from batchfinder.table import render, wrap
from batchfinder.units import format_bytes, format_seconds, format_size

if TYPE_CHECKING:
    from batchfinder.report.record import Report

__all__ = ["alternatives", "explain", "sections"]

_RELAXED = {
    Limit.MEMORY: "More memory would allow a larger batch that reaches the target sooner.",
    Limit.NOISE: "More memory would not change the choice. Beyond the noise scale every sample"
    " added to a batch teaches less than the one before.",
    Limit.THROUGHPUT: "More memory would not change the choice. The device is busy already, so"
    " a larger batch takes longer in proportion.",
    Limit.DATASET: "The data set holds no more samples; a larger batch cannot be filled.",
    Limit.USER: "You set this ceiling. Raise at_most to look further.",
    Limit.TIME: "Larger batches were not tried, since a step would take too long."
    " max_batch_size alone searches to the end.",
    Limit.INDEX: "A kernel cannot address a larger batch. Accumulation can go on from here.",
}

_HOW_TO_READ = (
    "Below, {what}, as multiples of the choice's; a batch written as a x b x c is batch size x"
    " accumulation steps x devices. Times were evened out between sizes, so that their order may"
    " differ from that of the figures as measured."
)


def explain(report: Report, width: int | None = None) -> str:
    """Every section under a title of its own, at ``width`` columns (default: the terminal's)."""
    width = width or screen_width()
    blocks = []
    for title, sentences in sections(report):
        blocks.append("\n".join([title, *(wrap(each, width, "  ") for each in sentences)]))
        if title == "Alternatives":
            blocks.append(render(candidate_table(report), width))
    blocks.append(_bullets("What else to change", checklist(report), width))
    if report.caveats:
        blocks.append("\n".join(["What was assumed", *caveat_list(report, width)[1:]]))
    return "\n\n".join(blocks)


def sections(report: Report) -> Iterator[tuple[str, list[str]]]:
    """Titles, each with the sentences under it."""
    yield "The choice", [f"{sentence(choice(report))}.", _why(report)]
    yield "What binds", [f"{sentence(report.limited_by.value)}. {_RELAXED[report.limited_by]}"]
    if others := [alternatives(report, each) for each in interesting(report)]:
        yield "Alternatives", [*others, _how_to_read(report)]
    yield "The learning rate", list(_learning_rate(report))
    if report.race is not None:
        yield "The race of learning rates", list(race_sentences(report.race))
    yield "Where the memory goes", list(memory_sentences(report))
    yield "What was measured", list(_measured(report))


def _how_to_read(report: Report) -> str:
    known = any(math.isfinite(each.relative_samples) for each in report.candidates)
    to_target = f"time and {report.unit} are what it takes to reach the same loss"
    return _HOW_TO_READ.format(what=to_target if known else f"time is that per {report.unit[:-1]}")


def _why(report: Report) -> str:
    """Why; what follows it in the reason, the limit first, has sections of its own here."""
    return report.recommendation.reason.partition(" It is limited by ")[0]


def interesting(report: Report) -> list[Candidate]:
    """The candidates not chosen that somebody may want: those with a role, or else all of them."""
    others = [each for each in report.candidates if not each.chosen]
    return [each for each in others if each.roles] or others


def alternatives(report: Report, candidate: Candidate) -> str:
    """One candidate's price: "512 would reach the target 3% sooner, for 1.9x the samples".

    Where the noise scale is not known only the time per sample is.
    """
    name = format_size(candidate.plan.global_batch)
    if candidate.plan.global_batch > candidate.plan.micro_batch:
        name += f" as {plan_words(candidate.plan)}"
    if candidate.roles:
        name += f" ({', '.join(candidate.roles)})"
    memory, time = _memory_words(report, candidate), candidate.relative_time
    if math.isfinite(time) and not math.isfinite(candidate.relative_samples):
        return f"{name} takes {time:.2f}x the time per {report.unit[:-1]}{memory}."
    samples, energy = samples_words(report, candidate), _energy_words(report, candidate)
    return f"{name} would reach the target {time_words(time)}{samples}{energy}{memory}."


def _energy_words(report: Report, candidate: Candidate) -> str:
    """The trade of time against energy, where the device tells what it draws."""
    chosen = next((each for each in report.candidates if each.chosen), None)
    reference = None if chosen is None else chosen.energy_to_target
    joules = candidate.energy_to_target
    if joules is None or not reference:
        return ""
    return f", for {joules / reference:.2f}x the energy"


def time_words(ratio: float) -> str:
    """``0.97`` as "3% sooner", ``1.4`` as "40% later", ``3`` as "in 3x the time"."""
    if not math.isfinite(ratio):
        return "at a time that was not predicted"
    if abs(ratio - 1) < 0.005:
        return "in the same time"
    if ratio >= 2:
        return f"in {ratio:.1f}x the time"
    return f"{100 * abs(ratio - 1):.0f}% {'sooner' if ratio < 1 else 'later'}"


def samples_words(report: Report, candidate: Candidate) -> str:
    ratio = candidate.relative_samples
    if not math.isfinite(ratio):
        return ""
    if abs(ratio - 1) < 0.005:
        return f", for as many {report.unit}"
    if ratio >= 1.5:
        return f", for {ratio:.1f}x the {report.unit}"
    more = "more" if ratio > 1 else "fewer"
    return f", for {100 * abs(ratio - 1):.0f}% {more} {report.unit}"


def _memory_words(report: Report, candidate: Candidate) -> str:
    chosen = next((each for each in report.candidates if each.chosen), None)
    if chosen is None or chosen.peak_bytes is None or candidate.peak_bytes is None:
        return ""
    difference = candidate.peak_bytes - chosen.peak_bytes
    if abs(difference) < 0.01 * chosen.peak_bytes:
        return ""
    more = "more" if difference > 0 else "less"
    return f", with {format_bytes(abs(difference))} {more} memory"


def _learning_rate(report: Report) -> Iterator[str]:
    if report.learning_rate is None:
        yield "No rate was known, so none is recommended. Pass optimizer= or base_learning_rate=."
        return
    yield (
        f"{format_rate(report.learning_rate)}, by the rule {report.learning_rate_rule}"
        + (
            "."
            if report.base_learning_rate is None
            else f", from {format_rate(report.base_learning_rate)}"
            f" at batch size {report.base_batch_size}."
        )
    )
    if report.recommendation.learning_rate_range is not None:
        low, high = report.recommendation.learning_rate_range
        yield (
            f"The rule is trusted for global batches from {format_size(low)} to"
            f" {format_size(high)}. It is a starting point, not a tuned rate."
        )
    if report.confirmation is not None and report.confirmation.double_rate_held is not None:
        held = report.confirmation.double_rate_held
        yield f"A short branch at twice this rate {'held too' if held else 'did not hold'}."


def _measured(report: Report) -> Iterator[str]:
    fitted = sum(trial.fits for trial in report.trials)
    yield (
        f"Memory: {memory_sentence(report)}. Every trial was of whole training steps; {fitted}"
        f" of {len(report.trials)} fitted."
    )
    if report.measurements:
        yield f"Throughput: {len(report.measurements)} sizes, medians with 90% intervals."
    if report.noise_scale is not None:
        yield f"Noise scale: {noise_sentence(report)}."
    if (tied := tied_sentence(report)) is not None:
        yield f"Near ties: {tied}."
    if report.seconds:
        spent = ", ".join(f"{stage} {format_seconds(time)}" for stage, time in report.seconds)
        yield f"Time spent: {spent}."


def _bullets(title: str, sentences: tuple[str, ...], width: int) -> str:
    return "\n".join([title, *(wrap(each, width, "  - ", "    ") for each in sentences)])
