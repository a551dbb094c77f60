"""Live rows on stderr: one line per event, nothing on stdout.

A call has some tens of events, so a line each says more than a bar, and reads as well in a log
file as on a screen. How far a long stage is stands below them: on a terminal in one line that is
overwritten, elsewhere in a row every few seconds. In a notebook the rows form one HTML table,
updated in place, which the saved file keeps. Silent under ``BATCHFINDER_QUIET=1`` and on every
rank but 0.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from batchfinder import html
from batchfinder.protocols import Clock
from batchfinder.results import (
    Confirmation,
    Event,
    Measurement,
    NoiseScale,
    Note,
    Progress,
    RaceArm,
    Recommendation,
    StageStarted,
    Trial,
    TrialStarted,
)
from batchfinder.table import Row, Table
from batchfinder.units import format_bytes, format_count, format_rate, format_seconds, format_size
from batchfinder.wording.confirm import judgement_words

__all__ = ["NotebookTable", "StreamRows", "default_observer", "describe", "is_quiet", "silent"]

Described = tuple[str, str, str]
"""What happened, at which size, and what came of it."""

_LONG_SECONDS = 5.0
_BRIEF_SECONDS = 2.0
_ROW_SECONDS = 6.0
"""Seconds without a row after which one says how far it is, where no line can be overwritten."""
_UPDATE_SECONDS = 2.0
"""Seconds between two updates of a notebook's table, so that it does not flicker."""


def silent(event: Event) -> None:
    """An observer that says nothing."""


def default_observer() -> Callable[[Event], None]:
    """Rows on stderr, or a table in a notebook; silent where the environment asks for it."""
    if is_quiet():
        return silent
    display = _notebook_display()
    return StreamRows() if display is None else NotebookTable(display)


def is_quiet() -> bool:
    """Whether ``BATCHFINDER_QUIET`` is set (to anything but 0), or this is not rank 0."""
    return os.environ.get("BATCHFINDER_QUIET", "0") not in ("", "0") or rank() != 0


def rank() -> int:
    """This process's rank as an initialised process group or the launcher has it; 0 when alone."""
    distributed = sys.modules.get("torch.distributed")  # looked up, so that it is never imported
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    given = os.environ.get("RANK", "0")
    return int(given) if given.isdigit() else 0


class StreamRows:
    """One line per event on a stream (default: stderr, looked up at each event).

    How far a stage is overwrites itself on a terminal, and is a row after six seconds without one
    elsewhere.
    """

    def __init__(self, stream: TextIO | None = None, clock: Clock = time.perf_counter) -> None:
        self._stream, self._clock = stream, clock
        self._live = 0
        """Characters of the line that the next one overwrites."""
        self._shown = clock()
        """When the last row was written."""

    def __call__(self, event: Event) -> None:
        if is_brief(event):
            return
        stream = self._stream or sys.stderr
        what, size, said = describe(event)
        line = (f"{what:<9} {size:>7}  {said}" if size else f"{what:<9} {said}").rstrip()
        if isinstance(event, Progress):
            self._progress(event, line, stream)
            return
        self._shown = self._clock()
        print(self._cleared() + line, file=stream, flush=True)

    def _progress(self, event: Progress, line: str, stream: TextIO) -> None:
        if stream.isatty():
            line = line[: shutil.get_terminal_size().columns - 1]
            print(self._cleared() + line, end="", file=stream, flush=True)
            self._live = len(line)
        elif self._clock() - self._shown >= _ROW_SECONDS:
            self._shown = self._clock()
            print(line, file=stream, flush=True)

    def _cleared(self) -> str:
        blank, self._live = f"\r{' ' * self._live}\r" if self._live else "", 0
        return blank


class NotebookTable:
    """One HTML table that grows by a row per event, through a display handle.

    Its last row is how far the stage is, as long as nothing else has happened.
    """

    def __init__(self, display: Callable[..., Any]) -> None:
        self._display = display
        self._rows: list[Row] = []
        self._handle: Any = None
        self._live: Progress | None = None
        """What the last row shows, where that is how far a stage is."""

    def __call__(self, event: Event) -> None:
        if is_brief(event):
            return
        live, self._live = self._live, event if isinstance(event, Progress) else None
        if live is not None:
            if self._live is not None and 0 <= self._live.seconds - live.seconds < _UPDATE_SECONDS:
                self._live = live
                return
            self._rows.pop()
        self._rows.append(Row(describe(event), isinstance(event, Recommendation)))
        if self._handle is None:
            self._handle = self._display(self, display_id=True)
        else:
            self._handle.update(self)

    def _repr_html_(self) -> str:
        rows = Table(("stage", "batch", "what was found"), tuple(self._rows))
        return html.fragment([html.table(rows)])

    def __repr__(self) -> str:
        return "\n".join(" ".join(part for part in row.cells if part) for row in self._rows)


def _notebook_display() -> Callable[..., Any] | None:
    """IPython's ``display`` where this runs in a notebook's kernel; else ``None``."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    found: Callable[..., Any] = display
    return found


def is_brief(event: Event) -> bool:
    """Whether this announces what will be over before it is read."""
    match event:
        case TrialStarted(expected_seconds=seconds):
            return seconds is None or seconds < _BRIEF_SECONDS
        case _:
            return False


def describe(event: Event) -> Described:
    """An event in three pieces: the stage, the batch size it concerns, what was found."""
    match event:
        case StageStarted():
            found = event.stage.name.lower(), "", _stage(event)
        case Note():
            found = "  note", "", event.text
        case Progress():
            found = f"  {event.stage.name.lower()}", "", _progress(event)
        case TrialStarted():
            found = "  trial", format_size(event.batch_size), _trial_started(event)
        case Trial():
            found = "  trial", format_size(event.batch_size), _trial(event)
        case Measurement():
            found = "  measure", format_size(event.batch_size), _measurement(event)
        case NoiseScale():
            whole = event.whole_training or not event.micro_batch
            found = "  noise", "" if whole else format_size(event.micro_batch), _noise(event)
        case RaceArm():
            found = "  race", "", _race_arm(event)
        case Recommendation():
            found = "  choice", format_size(event.plan.micro_batch), _choice(event)
        case Confirmation():
            found = "  confirm", format_size(event.plan.micro_batch), _confirmation(event)
    return found


def _stage(event: StageStarted) -> str:
    parts = [": ".join(part for part in (event.stage.value, event.detail) if part)]
    if event.expected_seconds is not None and event.expected_seconds >= _LONG_SECONDS:
        parts.append(f"(about {format_seconds(event.expected_seconds)})")
    return " ".join(parts)


def _progress(event: Progress) -> str:
    done = format_size(event.done)
    parts = [f"{done} {event.unit}"]
    if event.of is not None:
        parts = [f"{done} of {format_size(event.of)} {event.unit}"]
    elif not event.done:
        parts = []
    if event.samples_per_second:
        parts.append(f"{format_count(event.samples_per_second)} samples per second")
    if event.waited_seconds:
        parts.append(f"under way for {format_seconds(round(event.waited_seconds))}")
    if event.seconds_left is not None:
        parts.append(f"{format_seconds(max(1, round(event.seconds_left)))} left")
    return ", ".join(parts)


def _trial_started(event: TrialStarted) -> str:
    taking = event.expected_seconds
    return "running" + (
        "" if taking is None else f" (its steps take about {format_seconds(taking)})"
    )


def _trial(trial: Trial) -> str:
    peak = "" if trial.peak_bytes is None else f"peak {format_bytes(trial.peak_bytes)}"
    disturbed = "another process also used memory" if trial.disturbed else ""
    taken = format_seconds(trial.seconds) if trial.seconds else ""
    said = (trial.outcome.words, peak, taken, trial.note, disturbed)
    return ", ".join(part for part in said if part)


def _measurement(found: Measurement) -> str:
    low, high = found.samples_per_second_low, found.samples_per_second_high
    rate = f"{format_count(found.samples_per_second)} per second"
    interval = f" ({format_count(low)}-{format_count(high)})"
    unstable = ", unstable" if found.unstable else ""
    return f"{rate}{interval}, {format_seconds(found.step_seconds)} per step{unstable}"


def _noise(noise: NoiseScale) -> str:
    spent = f"from {format_count(noise.samples)} {noise.unit}"
    if noise.whole_training:
        spent = "for the whole training"
    if not noise.is_bounded:
        return f"noise scale at least {format_count(noise.low)}, {spent}"
    interval = f"({format_count(noise.low)}-{format_count(noise.high)})"
    return f"noise scale {format_count(noise.value)} {interval}, {spent}"


def _race_arm(arm: RaceArm) -> str:
    loss = "diverged" if arm.ran_away else f"held-out loss {arm.loss:.4g}"
    again = ", other data order" if arm.order > 1 else ""
    return f"learning rate {arm.learning_rate:.3g}: {loss} after {arm.steps} steps{again}"


def _choice(recommended: Recommendation) -> str:
    plan, rate = recommended.plan, recommended.learning_rate
    parts = []
    if plan.global_batch != plan.micro_batch:
        parts.append(f"{plan} = {format_size(plan.global_batch)} per optimizer step")
    if rate is not None:
        parts.append(f"learning rate {format_rate(rate)}")
    return "; ".join([*parts, f"limited by {recommended.limited_by.value}"])


def _confirmation(found: Confirmation) -> str:
    outcome = "passed" if found.held else "FAILED"
    words = judgement_words(found.judgement, found.first_loss, found.last_loss, found.detail)
    return f"{outcome} {found.steps} training steps: {words}"
