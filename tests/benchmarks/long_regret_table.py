"""The page of long targets and decayed runs: rows in, Markdown out."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any

from later import LATER
from unseen import UNSEEN

__all__ = ["page"]

Rows = list[dict[str, Any]]
SEEN = tuple(task.name for task in (*UNSEEN, *LATER))
"""On these it was settled by which powers a race moves a rate."""


def page(rows: Rows, rates: Rows, missing: list[tuple[str, str]]) -> str:
    """The tables; ``missing`` names what was not run."""
    named = "Every cell was run."
    if missing:
        named = "\n".join(["Not run:", "", *_not_run(missing)])
    parts = [PREAMBLE, named]
    if rows:
        parts += ["## Regret of the pair", regrets(rows)]
        parts += ["## Against the user's own pair", _THEIRS, against_theirs(rows)]
    if rates:
        parts += ["## The rate alone", _ALONE, alone(rates)]
        parts += ["## What a race costs, and what it saves", _COSTS, costs(rates)]
    return "\n\n".join(parts)


def _not_run(missing: list[tuple[str, str]]) -> list[str]:
    """A line for each kind of cell: its tasks, with the rows that each lacks."""
    lines = []
    for kind in dict.fromkeys(kind for kind, _ in missing):
        counted = Counter(name for each, name in missing if each == kind)
        tasks = (name if n == 1 else f"{name} ({n} rows)" for name, n in counted.items())
        lines.append(f"- {kind}: {'; '.join(tasks)}")
    return lines


def regrets(rows: Rows) -> str:
    names = list(rows[0]["regrets"])
    names = [name for name in names if all(name in row["regrets"] for row in rows)]
    names.sort(key=lambda name: not name.startswith("ours"))
    head = ["task", "rate decays", "user's rate", "step time", "best pair", "ours", "raced"]
    lines = _opened([*head, *(f"regret: {name}" for name in names)], texts=len(head))
    for row in rows:
        cells = [row["task"], "yes" if row["schedule"] == "cosine" else "no", row["base"]]
        cells += [row["profile"], _pair(row["best"]), _pair(row["ours"]), _pair(row["raced"])]
        lines.append(_line(cells + [_regret(row["regrets"][name]) for name in names]))
    for base in dict.fromkeys(row["base"] for row in rows):
        some = [row["regrets"] for row in rows if row["base"] == base]
        for word, of in (("mean", statistics.fmean), ("worst", max)):
            found = [_regret(of([each[name] for each in some])) for name in names]
            lines.append(_line([f"**{word}**, user's rate {base}", *[""] * 6, *found]))
    return "\n".join(lines)


def against_theirs(rows: Rows) -> str:
    head = ["training", "ours: median", "missed", "raced: median", "missed", "own pair missed"]
    lines = _opened(head, texts=1)
    gains: dict[str, list[float]] = {"ours": [], "ours, raced": []}
    for row in (each for each in rows if each["base"] == "right"):
        decays = ", cosine" if row["schedule"] == "cosine" else ""
        theirs = row["times"]["keep 32"]
        cells = [f"{row['task']}{decays}, {row['profile']}"]
        for name, kept in gains.items():
            own = row["times"][name]
            kept.append(_middle(theirs) / _middle(own))
            cells += [f"{kept[-1]:.2f}x", str(_missed(own))]
        lines.append(_line([*cells, str(_missed(theirs))]))
    means = [f"{statistics.geometric_mean(kept):.2f}x" for kept in gains.values()]
    lines.append(_line(["**mean** (geometric)", means[0], "", means[1], "", ""]))
    return "\n".join(lines)


def alone(rates: Rows) -> str:
    names = list(rates[0]["taken"])
    head = ["task", "rate decays", "seen while tuning", "best rate", "steps"]
    both = [f"{name}: {what}" for name in names for what in ("as started", "raced")]
    lines = _opened([*head, *both], texts=3)
    for row in rates:
        decays = row["schedule"] == "cosine"
        seen = row["task"] in SEEN
        cells = [row["task"], "yes" if decays else "no", "yes" if seen else "no"]
        cells += [f"{row['best']:.2g}", f"{row['steps']:,}"]
        for name in names:
            raced = f"{_inflation(row['inflations'][name])} ({row['rates'][name]:.2g})"
            cells += [_inflation(row["inflations"][f"{name}, as started"]), raced]
        lines.append(_line(cells))
    unseen = [row for row in rates if row["task"] not in SEEN]
    for whose, some in (("all", rates), ("not seen", unseen)):
        for word, of in (("mean", statistics.fmean), ("worst", max)) if some else ():
            found = []
            for name in names:
                for each in (f"{name}, as started", name):
                    found.append(_inflation(of([row["inflations"][each] for row in some])))
            lines.append(_line([f"**{word}**, {whose}", "", "", "", "", *found]))
    return "\n".join(lines)


def costs(rates: Rows) -> str:
    names = list(rates[0]["taken"])
    lines = _opened(["task", "rate decays", *(f"{name}: cost, saved" for name in names)], texts=2)
    for row in rates:
        cells = [row["task"], "yes" if row["schedule"] == "cosine" else "no"]
        for name in names:
            before, after = row["inflations"][f"{name}, as started"], row["inflations"][name]
            saved = round((before - after) * row["steps"])
            more = "at least " if before >= 2 > after else ""
            cells.append(f"{row['taken'][name]:,}, {more}{saved:,}")
        lines.append(_line(cells))
    return "\n".join(lines)


def _opened(head: list[str], *, texts: int) -> list[str]:
    return [_line(head), "|" + " --- |" * texts + " ---: |" * (len(head) - texts)]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _pair(pair: tuple[int, float]) -> str:
    return f"{pair[0]} at {pair[1]:.2g}"


def _regret(value: float) -> str:
    return "> 1" if value >= 1 else f"{value:.2f}"


def _inflation(value: float) -> str:
    return "> 2" if value >= 2 else f"{value:.2f}"


def _middle(times: list[float]) -> float:
    """The median, a target missed counted as twice the best."""
    return statistics.median(min(2.0, time) for time in times)


def _missed(times: list[float]) -> int:
    return sum(not time < 2 for time in times)


PREAMBLE = """# Long targets and decayed runs

Tasks that were written after the other rules (`tests/benchmarks/unseen.py`, `later.py`,
`fresh.py`). On seeing those of the first two files it was settled from which to which power of the
length of a run a race leaves a rate alone, and where it moves one outside; a first time, and once
more on arms that were kept (`race_lengths.py`). The four of
`fresh.py` were looked at after either, but not for those powers: on seeing the springs and the bags
how far above a rate is kept was raised from 1.5 to 2 times, and that bags of words are learned in
70 steps led to telling a race the steps that a training takes rather than 1,000.

The target is the loss that the best rate reaches in 1,000 steps at batch 128, for each seed its
own; or the rate decays to 0 along a cosine and the losses at the end of the same time are
compared, read as a time between the best pair's losses after the whole time and after half of it.
On the median that halving changes the loss hardly more than the seed does, so that its decayed
rows are mostly scatter. On the bags of words the validation loss is lowest after some 70 steps and
then rises at all but the highest rates: the target is no long one, and in the decayed run a rate is
good that is too high for a short training. Sizes 32, 128, 256 and 512, since steps are flat up to
256, rates a factor of two apart with the best inside, two seeds. A user trains at batch 32 with the
best rate there, or four times too low or too high. Regret is the time over that of the best pair of
the sweep, less one; over 1, or a target missed, counts as 1. "Ours" is what the product's noise
scale, choice, rule and confirmation come to, "raced" with the length of the run and `Race()`. Step
times: flat to 256, then in proportion, as on a GPU (saturating), or 1 + B/1024 (overhead-bound).
With two seeds differences below about 0.2 are within the scatter. Where the loss of the user's own
pair is not finite, `find_batch_size` raises an error; the user's own pair then counts.

Made by `python tests/benchmarks/long_regret.py --out docs/tables/long_regret.md`, in part on a
16-core machine (torch 2.11, Python 3.12, whose own source the characters are of), in part on a
busy one of 2 cores (torch 2.13); every cell is in `docs/tables/long_regret.jsonl`, from which the
same command goes on. Counts of steps do not depend on the machine."""

_THEIRS = """The time of the user's own pair over that of ours, from a right rate: median over
seeds, and how many of two seeds missed the target (or took over twice the best, as which they
count)."""

_ALONE = """At batch 128: steps over those of the best rate there, as the user's rate was, and after
a race that was told the length of the run (in brackets the rate). In the means a target missed, or
over twice the steps, counts as 2."""

_COSTS = """Steps of the race beside the steps that it saved in one run (below 0: that it cost)."""
