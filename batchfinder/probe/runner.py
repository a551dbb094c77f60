"""One trial after another on the bench."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from batchfinder.errors import BatchFinderError, NothingToTrain, UnknownLoss
from batchfinder.probe.patience import step_seconds_at
from batchfinder.protocols import Ranks
from batchfinder.results import Trial
from batchfinder.run.bench import Bench
from batchfinder.run.trial import run_trial

__all__ = ["as_slow_as_any", "runs_at", "steps_of_trial", "trial_runner"]

_NEEDS_MORE = (
    "batchfinder: a step at your batch size, {own}, runs, but one at {size} does not. If the "
    "model or the loss needs a minimum size or a multiple, pass at_least= or multiple_of=; no "
    "other size is then tried"
)
_NEEDS_FEWER = (
    "batchfinder: a step at {own} runs, but one at {size} does not. If the model or the loss "
    "accepts only some sizes, pass at_most=, multiple_of= or powers_of_two=; no other size is "
    "then tried"
)
_OF_THE_LOSS = (UnknownLoss, NothingToTrain)
_STEPS = 2
"""In a trial, where memory is steady at once."""
_LONG_SECONDS = 0.1
"""From here on one step makes a trial where there is no cache whose state could change."""


def steps_of_trial(bench: Bench, step_seconds: float | None) -> int:
    """How many steps a trial runs.

    A second one shows what the cache keeps and how long a warm step takes.
    """
    cached = bench.memory.reserved_peak_bytes() is not None
    return _STEPS if cached or (step_seconds or 0.0) < _LONG_SECONDS else 1


def trial_runner(bench: Bench) -> Callable[[int], Trial]:
    """Runs a trial at a size; what a failed step left behind is put back."""
    ran: list[Trial] = []

    def run(size: int) -> Trial:
        bench.step.ranks.tell(f"a trial of {size}", None)
        bench.start_over()
        steps = steps_of_trial(bench, step_seconds_at(ran, size))
        try:
            trial = run_trial(bench.setup, size, steps=steps)
        except Exception as error:
            if isinstance(error, BatchFinderError) and not isinstance(error, _OF_THE_LOSS):
                raise
            own = bench.source.base_batch_size or max(
                (trial.batch_size for trial in ran), default=size
            )
            if runs_at(bench, own, size):
                note = _NEEDS_MORE if own > size else _NEEDS_FEWER
                error.add_note(note.format(own=own, size=size))
            raise
        trial = as_slow_as_any(bench.step.ranks, trial)
        ran.append(trial)
        if not trial.fits:  # an aborted step leaves half a state behind
            bench.fresh()
            bench.step.scale_learning_rate(0.0)
        return trial

    return run


def runs_at(bench: Bench, own: int, failed: int) -> bool:
    """Whether a step runs at ``own``, which one of ``failed`` samples did not."""
    if own == failed:
        return False
    try:
        bench.fresh()
        bench.step.scale_learning_rate(0.0)
        return run_trial(bench.setup, own, steps=1).fits
    except Exception:  # noqa: BLE001  # the first error is the one to be raised
        return False


def as_slow_as_any(ranks: Ranks, trial: Trial) -> Trial:
    """With the times of the slowest rank, by which all decide what there is time for."""
    told = ranks.tell("the time of a trial", (trial.seconds, trial.step_seconds))
    seconds, step_seconds = (max(each) for each in zip(*told, strict=True))
    return replace(trial, seconds=seconds, step_seconds=step_seconds)
