"""A report as text, and a race of learning rates in sentences."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from batchfinder.report.ranks import rank_table, ranks_sentence
from batchfinder.report.rows import format_noise, legend, measurement_table
from batchfinder.results import Confirmation, Environment, Judgement, Limit, RaceArm, RaceResult
from batchfinder.table import render, wrap
from batchfinder.units import format_bytes, format_count, format_rate, format_size
from batchfinder.wording import capitalized, sentence
from batchfinder.wording.choice import (
    alternatives,
    headline,
    learning_rate_sentence,
    limit_sentence,
    plan_words,
    says_why,
    steps_sentence,
    why_sentence,
)
from batchfinder.wording.confirm import judgement_words
from batchfinder.wording.rates import groups_sentence

if TYPE_CHECKING:
    from batchfinder.report.data import ReportData

__all__ = [
    "answer",
    "caveat_list",
    "choice",
    "findings",
    "race_sentence",
    "race_sentences",
    "screen_width",
    "text",
]


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
            "open_rates": race.open_rates,
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


NARROW, WIDE = 80, 120
LABEL = 14
_ENDED_BY = {
    Limit.DATASET: "the dataset has no more samples",
    Limit.USER: "your ceiling ended the search",
    Limit.INDEX: "an index limit of a kernel ended the search",
    Limit.TIME: "time ended the search",
    Limit.DATA_LOADING: "the time to load samples ended the search",
}


def screen_width() -> int:
    """Columns to fill: the terminal's, never under 80 or over 120; 80 where there is none."""
    return max(NARROW, min(WIDE, shutil.get_terminal_size((NARROW, 24)).columns))


def text(report: ReportData, width: int | None = None) -> str:
    """The whole report at ``width`` columns (default: the terminal's)."""
    width = width or screen_width()
    lines = [wrap(answer(report), width), ""]
    if report.measurements:
        lines += [render(measurement_table(report, wide=width >= WIDE), width)]
        lines += [wrap(legend(report), width, "  "), ""] if legend(report) else [""]
    lines += [
        wrap(said, width, f"{label:<{LABEL}}", " " * LABEL) for label, said in findings(report)
    ]
    if (ranks := rank_table(report)) is not None:
        lines += ["", render(ranks, width)]
    lines += caveat_list(report, width)
    return "\n".join(lines)


def answer(report: ReportData) -> str:
    """What to do, in one sentence; a second one where training did not confirm it."""
    said = headline(report.recommendation, report.rates)
    if report.confirmation is not None and not report.confirmation.held:
        return f"{said} See the caveats."
    return said


def surroundings(report: ReportData) -> str:
    """Where the figures come from, in one line."""
    where, limit = _machine(report.environment), format_bytes(report.memory.limit_bytes)
    return where if limit in where else f"{where}; memory limit {limit}"


def _machine(environment: Environment) -> str:
    name = environment.device_name
    device = f"{environment.device} ({name})" if name else environment.device
    threads = f"{environment.threads} thread{'s' * (environment.threads != 1)}"
    parts = (device, f"torch {environment.torch}", threads, environment.optimizer)
    extra = (name if value == "on" else f"{name} {value}" for name, value in environment.extra)
    return ", ".join(part for part in (*parts, environment.precision, *extra) if part)


def findings(report: ReportData) -> Iterator[tuple[str, str]]:
    """Label and sentence of everything below the table, in the order of interest."""
    recommendation = report.recommendation
    if recommendation.plan.global_batch > recommendation.plan.micro_batch:
        yield "Batch size", choice(report)
    yield "Learning rate", learning_rate_sentence(recommendation)
    if groups := groups_sentence(report.rates):
        yield "Groups", groups
    if steps := steps_sentence(recommendation.change):
        yield "Steps", steps
    if not says_why(recommendation):
        yield "Why", why_sentence(recommendation)
    yield "Limited by", limit_sentence(recommendation.limited_by)
    if others := "; ".join(alternatives(recommendation, report.unit)):
        yield "Alternatives", f"relative to the choice, {others}"
    if (tied := tied_sentence(report)) is not None:
        yield "Undecided", tied
    if report.noise_scale is not None:
        yield "Noise scale", noise_sentence(report)
    yield "Memory", memory_sentence(report)
    if report.race is not None and report.race.arms:
        yield "Race", race_sentence(report.race)
    if report.confirmation is not None:
        label = "Confirmed" if report.confirmation.held else "Unconfirmed"
        yield label, confirmation_sentence(report.confirmation)
    yield "State", restored_sentence(report)
    yield "Machine", surroundings(report)
    if ranks := ranks_sentence(report):
        yield "Ranks", ranks


def choice(report: ReportData) -> str:
    """The plan in one phrase: sizes, accumulation, devices."""
    plan = report.recommendation.plan
    whole = plan_words(plan)
    if plan.global_batch > plan.micro_batch:
        whole += f" = {format_size(plan.global_batch)} {report.unit} per optimizer step"
    return whole


def tied_sentence(report: ReportData) -> str | None:
    """The sizes that may be as fast as the choice; ``None`` where there is none."""
    low, high = report.recommendation.within_noise or (0, 0)
    if low == high:
        return None
    return (
        f"batch sizes {format_size(low)}-{format_size(high)} may be as fast as the choice, within "
        "the uncertainty of the predicted times"
    )


def noise_sentence(report: ReportData) -> str:
    """The noise scale with its interval, and what it was estimated from."""
    noise = report.noise_scale
    if noise is None:
        return "not measured"
    spent = f"estimated by {noise.estimator} from {format_count(noise.samples)} samples"
    if not noise.is_bounded:
        return f"at least {format_count(noise.low)} {noise.unit}; no upper end is known ({spent})"
    return f"{format_noise(noise)} {noise.unit}, {noise.confidence:.0%} interval; {spent}"


def memory_sentence(report: ReportData) -> str:
    """The largest that fitted, and what ended the search there: memory, or something else."""
    limit, size = format_bytes(report.memory.limit_bytes), format_size(report.max_batch_size)
    ended = _ENDED_BY.get(report.probe.limited_by)
    trials = f"({len(report.trials)} trials)"
    if ended is not None:
        return f"{size} fits in {limit}; {ended} {trials}"
    too_large = [
        trial.batch_size
        for trial in report.trials
        if not trial.fits and trial.batch_size > report.max_batch_size
    ]
    largest = f"{size} is the largest batch size that fits in {limit}"
    if too_large:
        largest += f"; {format_size(min(too_large))} does not"
    return f"{largest} {trials}"


def confirmation_sentence(confirmation: Confirmation) -> str:
    """What was trained, and how the loss went, at twice the rate too."""
    rate = confirmation.learning_rate
    at = "" if rate is None else f" at learning rate {format_rate(rate)}"
    batch = format_size(confirmation.plan.global_batch)
    said = f"{confirmation.steps} training steps with batch size {batch}{at}: "
    said += judgement_words(
        confirmation.judgement,
        confirmation.first_loss,
        confirmation.last_loss,
        confirmation.detail,
    )
    effect = confirmation.effect
    if effect is not None and effect.clipped:
        said += f"; gradients were clipped in {effect.clipped} of {effect.updates} updates"
    if confirmation.at_double_rate is None:
        return said
    if confirmation.at_double_rate is Judgement.HELD:
        return f"{said}; twice the rate passed too"
    twice = judgement_words(
        confirmation.at_double_rate, confirmation.first_loss, confirmation.double_rate_last_loss
    )
    return f"{said}; at twice the rate {twice}"


def restored_sentence(report: ReportData) -> str:
    """Whether everything is as it was before the call."""
    if report.state_restored:
        return "restored (checksums of model, optimizer, random generators and loader match)"
    return "NOT restored: checksums from before and after differ; see the caveats"


def caveat_list(report: ReportData, width: int) -> list[str]:
    """The caveats as a bulleted list, or nothing."""
    if not report.caveats:
        return []
    lines = (wrap(capitalized(caveat), width, "  - ", "    ") for caveat in report.caveats)
    return ["Caveats", *lines]
