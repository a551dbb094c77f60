"""Alarms of the monitor: what share of instabilities it names, how early, and how often falsely."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

from monitor_trainings import BROKEN, HEALTHY, run

Row = dict[str, object]

HEALTHY_SEEDS, HEALTHY_STEPS = 10, 500
BROKEN_SEEDS, BROKEN_STEPS, NO_SIGNAL_STEPS = 5, 700, 1200
FIRST_SEED = 1000
"""The tests, and all tuning, use the seeds from 0 on."""


def alarms_part(
    healthy_seeds: int = HEALTHY_SEEDS, broken_seeds: int = BROKEN_SEEDS
) -> Iterator[Row]:
    for training in BROKEN:
        for seed in range(broken_seeds):
            steps = NO_SIGNAL_STEPS if training.name == "no signal" else BROKEN_STEPS
            done = run(training.make(FIRST_SEED + seed), steps)
            seldom = run(training.make(FIRST_SEED + seed), steps, every=None)
            expected = training.expected
            assert expected is not None
            right = [step for step, kind in done.told if kind is expected]
            later = [step for step, kind in seldom.told if kind is expected]
            yield {
                "part": "alarms",
                "healthy": False,
                "name": training.name,
                "expected": expected.value,
                "seed": seed,
                "breaks_at": training.breaks_at,
                "steps": len(done.losses),
                "collapse": done.collapse(training.breaks_at),
                "told": right[0] if right else None,
                "told_by_default": later[0] if later else None,
                "first": done.told[0][0] if done.told else None,
            }
    for training in HEALTHY:
        for seed in range(healthy_seeds):
            done = run(training.make(FIRST_SEED + seed), HEALTHY_STEPS)
            seldom = run(training.make(FIRST_SEED + seed), HEALTHY_STEPS, every=None)
            yield {
                "part": "alarms",
                "healthy": True,
                "name": training.name,
                "seed": seed,
                "steps": len(done.losses),
                "events": [kind.value for _, kind in done.told],
                "events_by_default": [kind.value for _, kind in seldom.told],
            }


def alarms_table(rows: list[Row]) -> list[str]:
    healthy = [row for row in rows if row["healthy"]]
    broken = [row for row in rows if not row["healthy"]]
    lines = []
    if healthy:
        steps = sum(int(str(row["steps"])) for row in healthy)
        counted, by_default = (
            [len(events) for row in healthy if isinstance(events := row[name], list)]
            for name in ("events", "events_by_default")
        )
        alarms = sum(counted)
        per = 10_000 * alarms / steps
        bound = f" (none seen in so many: below {30_000 / steps:.1f} at 95%)" if not alarms else ""
        lines += [
            f"Healthy: {len(healthy)} trainings of {len({row['name'] for row in healthy})} kinds, "
            f"{steps:,} steps, {alarms} alarms in {sum(map(bool, counted))} trainings: {per:.2f} "
            f"false alarms per 10,000 steps{bound}; {sum(by_default)} with looks as by default.",
            "",
        ]
    lines += [
        "| made to go wrong | named | caught | by any name | steps after it begins | "
        "steps before collapse | caught by default | steps after it begins, by default |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    before: list[int] = []
    caught = caught_seldom = 0
    for name in dict.fromkeys(str(row["name"]) for row in broken):
        mine = [row for row in broken if row["name"] == name]
        told = [row for row in mine if row["told"] is not None]
        caught += len(told)
        seldom = [row for row in mine if row["told_by_default"] is not None]
        later = [_number(row, "told_by_default") - _number(row, "breaks_at") for row in seldom]
        caught_seldom += len(seldom)
        any_name = [row for row in mine if row["first"] is not None]
        after = [_number(row, "told") - _number(row, "breaks_at") for row in told]
        lead = [_number(row, "collapse") - _number(row, "told") for row in told if row["collapse"]]
        before += lead
        collapsed = _spread(lead) if lead else "no collapse"
        lines.append(
            f"| {name} | {mine[0]['expected']} | {len(told)} of {len(mine)} | "
            f"{len(any_name)} of {len(mine)} | {_spread(after)} | {collapsed} | "
            f"{len(seldom)} of {len(mine)} | {_spread(later)} |"
        )
    if broken:
        share = 100 * caught / len(broken)
        lines.append(
            f"| **all** | | **{caught} of {len(broken)}** ({share:.0f}%) | | | {_spread(before)} | "
            f"**{caught_seldom} of {len(broken)}** | |"
        )
    return lines


def _number(row: Row, name: str) -> int:
    return int(str(row[name]))


def _spread(numbers: list[int]) -> str:
    """The median, and from where to where."""
    if not numbers:
        return "–"
    middle = math.floor(statistics.median(numbers))
    if min(numbers) == max(numbers):
        return str(middle)
    return f"{middle} ({min(numbers)} to {max(numbers)})"
