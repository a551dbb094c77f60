"""The study as a table of text, and its regrets as sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batchfinder.compare.data import Ending
from batchfinder.table import Row, Table, render, wrap
from batchfinder.units import format_bytes, format_count, format_seconds, format_size

if TYPE_CHECKING:
    from batchfinder.compare.data import Arm, StudyData

__all__ = ["headline", "legend", "number", "regrets", "table", "text", "title"]

_WIDTH = 160
_ABSENT = "-"
_MEANINGS = {
    "to target": "training time (then steps, epochs) until the loss first met the target",
    "train loss": "at the end, the mean over the last stretch of batches",
    "valid. loss": "at the end, ± its spread over seeds",
    "best valid.": "the lowest measured",
    "gap": "validation loss minus training loss, at the end",
    "time": "of the whole training, without validation",
}


def text(study: StudyData) -> str:
    """The answer; one row per size and rate, the fastest to the target marked; caveats below."""
    rendered = render(table(study), _WIDTH)
    width = max(80, *map(len, rendered.splitlines()))
    lines = [wrap(headline(study), width), "", rendered, wrap(legend(study), width, "  "), ""]
    lines += regrets(study)
    lines += [f"Note: {caveat}" for caveat in study.caveats]
    return "\n".join(lines).rstrip()


def title(study: StudyData) -> str:
    """How many sizes and seeds."""
    sizes, seeds = len(study.sizes), len({cell.seed for cell in study.cells})
    return f"{sizes} batch size{'s' * (sizes != 1)}, {seeds} seed{'s' * (seeds != 1)}"


def headline(study: StudyData) -> str:
    """Which size met the target first, and how much earlier than the next."""
    asked = f"{title(study)}; time to reach a loss of {number(study.target)}."
    times = {size: study.seconds_to_target(study.best_arm(size)) for size in study.sizes}
    met = sorted((each for each in times.items() if math.isfinite(each[1])), key=lambda p: p[1])
    if not met:
        return f"No batch size reached a loss of {number(study.target)} with every seed. {asked}"
    (size, least), *others = met
    if len(times) == 1:
        return asked
    if not others:
        return f"Only batch size {format_size(size)} reached the loss with every seed. {asked}"
    next_size, seconds = others[0]
    lead = f", {seconds / least:.2f}x as fast as {format_size(next_size)}" if least else ""
    return f"Batch size {format_size(size)} was the fastest{lead}. {asked}"


def regrets(study: StudyData) -> list[str]:
    """A sentence for the recommended size, for 32, and for the largest that fits."""
    return [_regret(role, size, value) for role, size, value in study.regrets()]


def table(study: StudyData) -> Table:
    """Every column that has something to say."""
    header = (
        "batch",
        "rate",
        "to target",
        "steps to",
        "epochs to",
        "train loss",
        "valid. loss",
        "best valid.",
        "gap",
        study.metric_name or "metric",
        "time",
        "samples/s",
        "peak mem",
        "ended",
    )
    times = [study.seconds_to_target(arm) for arm in study.arms]
    best = min((time for time in times if math.isfinite(time)), default=None)
    rows = tuple(
        Row(_cells(study, arm), time == best) for arm, time in zip(study.arms, times, strict=True)
    )
    return Table(header, rows).without_empty_columns()


def legend(study: StudyData) -> str:
    """What the columns that are there mean, where the header alone does not say."""
    header = table(study).header
    said = [f"{name}: {words}" for name, words in _MEANINGS.items() if name in header]
    return f"{'; '.join(said)}. All are means over seeds."


def _cells(study: StudyData, arm: Arm) -> tuple[str, ...]:
    seconds = study.seconds_to_target(arm)
    spent = arm.mean(lambda cell: cell.seconds)
    speed = arm.mean(lambda cell: cell.samples / cell.seconds if cell.seconds else math.nan)
    reached = sum(math.isfinite(cell.reach(study.target, lambda k: k.step)) for cell in arm.cells)
    never = f"{reached} of {len(arm.cells)} seeds" if reached else "never"
    scatter = arm.scatter(lambda cell: cell.final(lambda look: look.validation_loss))
    spread = f" ±{number(scatter, 2)}" if math.isfinite(scatter) else ""
    return (
        format_size(arm.batch_size),
        f"{arm.learning_rate:.3g}",
        format_seconds(seconds) if math.isfinite(seconds) else never,
        number(arm.reach(study.target, lambda look: look.step)),
        number(arm.epochs_to(study.target)),
        number(arm.mean(lambda cell: cell.final(lambda look: look.train_loss))),
        number(arm.mean(lambda cell: cell.final(lambda look: look.validation_loss))) + spread,
        number(arm.mean(lambda cell: cell.lowest(lambda look: look.validation_loss))),
        number(arm.mean(lambda cell: cell.gap)),
        number(arm.mean(lambda cell: cell.final(lambda look: look.metric))),
        format_seconds(spent) if math.isfinite(spent) else _ABSENT,
        format_count(speed) if math.isfinite(speed) else _ABSENT,
        _ABSENT if arm.peak_bytes is None else format_bytes(arm.peak_bytes),
        "" if arm.ending is Ending.FINISHED else arm.ending.name.lower().replace("_", " "),
    )


def number(value: float, digits: int = 4) -> str:
    """``"0.01234"``, ``"10,110"``: so many significant digits, and never a power of ten above 1."""
    if not math.isfinite(value):
        return _ABSENT
    rounded = float(f"{value:.{digits}g}")
    return format_size(rounded) if abs(rounded) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def _regret(role: str, size: int, value: float) -> str:
    name = f"{role} ({format_size(size)})" if role != str(size) else role
    if math.isnan(value):
        return f"Regret of {name}: unknown, since no training reached the target."
    if math.isinf(value):
        return f"Regret of {name}: it never reached the target."
    return f"Regret of {name}: {100 * value:.0f}% more time to the target than the best."
