"""The race of learning rates in sentences: what was tried, what it says, what follows from it."""

from __future__ import annotations

from collections.abc import Iterator

from batchfinder.results import RaceArm, RaceResult
from batchfinder.wording import sentence

__all__ = ["race_sentence", "race_sentences"]


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
