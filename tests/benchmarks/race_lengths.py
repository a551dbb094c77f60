"""Races with arms of 100, 200, 300 and 400 steps, for a run of 1,000.

``python tests/benchmarks/race_lengths.py [--out FILE]``

On the tasks of ``long_regret.py``, whose cells say what each rate costs: the arms of three users
(initial weights) on two orders of the data, at ten rates a factor of two apart, side by side
(``stacked.py``) and judged on the validation set. They are kept in
``docs/tables/race_lengths.jsonl``, and the product's walk is replayed on them: with arms of each
length; and with arms that go on, the three best after 100 steps to 200, and the two best of these
to 400. Between the rates that were trained, steps are interpolated in the logarithm of the rate.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from long_regret import AT, CELLS, CONSTANT, COSINE, FACTORS, LENGTH, TASKS, Place
from long_regret_table import SEEN
from stacked import Stack
from sweep import Cells
from tasks import Task

from batchfinder.race import run_arms
from batchfinder.race.arithmetic import averaged_share, fall_of, for_the_run, offset_of
from batchfinder.results import RaceArm

ARMS = Path(__file__).parents[2] / "docs" / "tables" / "race_lengths.jsonl"
LENGTHS = (50, 100, 150, 200, 300, 400)
USERS, ORDERS, POWERS = (0, 1, 2), (1, 2), range(-3, 7)
HELD = 8
"""Steps that judging an arm counts for."""
RAN_AWAY = 3.0


class Arms(Stack):
    """Trainings of several users, each in several orders: seed = 1000 · user + 100 + order."""

    def _model(self, seed: int) -> torch.nn.Module:
        torch.manual_seed(seed // 1000)
        return self.task.make_model()


def train(cells: Cells, task: Task, schedule: str, best: float) -> None:
    """Every arm of a task: losses after each of ``LENGTHS``, ``inf`` once one ran away."""
    keys = [(user, order, k) for user in USERS for order in ORDERS for k in POWERS]
    seeds = [1000 * user + 100 + order for user, order, _ in keys]
    rates = [best * 2.0**k for *_, k in keys]
    stack = Arms(task, AT, list(zip(rates, seeds, strict=True)))
    start = stack.validation()
    average = stack.weights.detach().clone() if schedule == COSINE else None
    found: list[list[float]] = [[] for _ in keys]
    for step in range(1, max(LENGTHS) + 1):
        stack.advance()
        if average is not None:
            average.lerp_(stack.weights.detach(), averaged_share(step))
        if step in LENGTHS:
            for kept, loss, first in zip(found, stack.validation(average), start, strict=True):
                away = bool(kept) and math.isinf(kept[-1])
                kept.append(math.inf if away or not loss < RAN_AWAY * first else loss)
    for user in USERS:
        mine = [i for i, key in enumerate(keys) if key[0] == user]
        arms = [(keys[i][1], keys[i][2], found[i]) for i in mine]
        row = {"task": task.name, "schedule": schedule, "best": best, "user": user}
        cells.add(**row, start=start[mine[0]], arms=arms)


@dataclass(frozen=True)
class User:
    """One user's arms, by order and power of two."""

    task: str
    schedule: str
    family: str
    start: float
    losses: dict[tuple[int, int], dict[int, float]]

    def loss(self, order: int, k: int, steps: int) -> float:
        return self.losses.get((order, k), {}).get(steps, math.inf)


def replayed(user: User, power: int, steps: int) -> tuple[float | None, float | None, int]:
    """The product's race from 2^power times the best rate: best rate, its first winner, cost."""

    def arm(rate: float, order: int) -> RaceArm:
        return RaceArm(rate, user.loss(order, round(math.log2(rate)), steps), steps, order)

    finish = run_arms(arm, 2.0**power, most=8)
    cost = len(finish.arms) * (steps + HELD)
    lowest = min(each.loss for each in finish.arms)
    if finish.best_rate is None or finish.alike or not user.start - lowest > finish.scatter:
        return None, None, cost
    return finish.best_rate, finish.first_best_rate, cost


def going_on(
    user: User, power: int, stages: tuple[tuple[int, int], ...]
) -> tuple[float | None, float | None, int]:
    """A race of 100 steps, of which the best arms go on: (so many, to so many steps), in turn."""
    first: dict[int, float] = {}

    def arm(rate: float, order: int) -> RaceArm:
        k = round(math.log2(rate))
        first.setdefault(k, user.loss(1, k, 100))
        return RaceArm(rate, user.loss(order, k, 100), 100, order)

    finish = run_arms(arm, 2.0**power, most=8)
    cost, before = len(finish.arms) * (100 + HELD), 100
    if finish.best_rate is None or not min(first.values()) < user.start:
        return None, None, cost
    live = sorted((k for k in first if math.isfinite(first[k])), key=first.__getitem__)
    latest = first
    for count, steps in stages:
        live = live[:count]
        latest = {k: user.loss(1, k, steps) for k in live}
        cost, before = cost + len(live) * (steps - before + HELD), steps
        live = sorted((k for k in live if math.isfinite(latest[k])), key=latest.__getitem__)
        if not live:
            return None, None, cost
    return 2.0 ** (live[0] + offset_of(latest, live[0])), None, cost


Way = Callable[[User, int], tuple[float | None, float | None, int]]
WAYS: dict[str, tuple[int, Way]] = {
    **{
        f"{steps} steps": (steps, lambda user, power, steps=steps: replayed(user, power, steps))
        for steps in (100, 200, 300, 400)
    },
    "100 steps, the best three go on to 200": (
        200,
        lambda user, power: going_on(user, power, ((3, 200),)),
    ),
    "100 steps, the best three go on to 200, two to 400": (
        400,
        lambda user, power: going_on(user, power, ((3, 200), (2, 400))),
    ),
}


def inflations(place: Place) -> Callable[[float], float]:
    """Steps at a rate over those of the best, at most 2, by the rate over the best one."""
    best, steps = place.best_rate(AT), place.steps(AT)
    found: dict[float, list[float]] = {}
    whole = {"task": place.task.name, "schedule": place.schedule, "size": AT, "steps": steps}
    for row in place.cells.find(**whole):
        if "kind" not in row and "patience" not in row:
            found.setdefault(float(row["rate"]), []).append(float(row["found"]))
    mean, half = place.table(AT)[best], None
    if place.schedule == COSINE:
        shorter = place.found(AT, [best, 2 * best], steps // 2).values()
        half = min(statistics.fmean(each) for each in shorter)
    points = sorted(
        (math.log2(rate / best), min(2.0, place.slower(statistics.fmean(each), mean, half)))
        for rate, each in found.items()
        if len(each) == 2
    )

    def at(ratio: float) -> float:
        octaves = math.log2(ratio)
        for (left, low), (right, high) in itertools.pairwise(points):
            if left <= octaves <= right:
                return low + (high - low) * (octaves - left) / max(right - left, 1e-9)
        return 2.0

    return at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    arms, cells = Cells(ARMS, None), Cells(CELLS, None)
    users: list[User] = []
    costs: dict[tuple[str, str], Callable[[float], float]] = {}
    for schedule in (CONSTANT, COSINE):
        for task in TASKS:
            place = Place(cells, task, schedule)
            if not list(arms.find(task=task.name, schedule=schedule)):
                train(arms, task, schedule, place.best_rate(AT))
            costs[task.name, schedule] = inflations(place)
            for row in arms.find(task=task.name, schedule=schedule):
                losses = {
                    (order, k): dict(zip(LENGTHS, map(float, kept), strict=True))
                    for order, k, kept in row["arms"]
                }
                users.append(User(task.name, schedule, task.family, float(row["start"]), losses))
    text = page(users, costs)
    print(text)
    if asked.out is not None:
        asked.out.write_text(text + "\n", encoding="utf-8")


def page(users: list[User], costs: dict[tuple[str, str], Callable[[float], float]]) -> str:
    lines = [
        PREAMBLE,
        "",
        "| arms | tasks | right | 4x too low | 4x too high | steps of a race |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for whose in ("seen while tuning", "not seen"):
        some = [each for each in users if (each.task in SEEN) == (whose == "seen while tuning")]
        for name, (steps, way) in WAYS.items():
            cells, spent = [], []
            for factor in FACTORS.values():
                power, found = round(math.log2(factor)), []
                for user in some:
                    best, up_to, cost = way(user, power)
                    fall = fall_of(user.family, decays=user.schedule == COSINE)
                    rate = factor
                    if best is not None:
                        rate = for_the_run(factor, best, LENGTH / steps, fall, up_to=up_to)
                    found.append(costs[user.task, user.schedule](rate))
                    spent.append(cost)
                cells.append(f"{statistics.fmean(found):.2f}")
            lines.append(
                f"| {name} | {whose} | {' | '.join(cells)} | {statistics.fmean(spent):,.0f} |"
            )
    return "\n".join(lines)


PREAMBLE = """# How long the arms of a race are

Made by `python tests/benchmarks/race_lengths.py --out docs/tables/race_lengths.md`: the thirteen
tasks of the table of long targets, at a constant and at a decaying rate, three users each. Steps to
the target of 1,000 steps over those of the best rate (means; at most 2), after a race of arms of
this length from a rate that was right, four times too low and four times too high. The product's
race is replayed on arms that were trained side by side, judged on the validation set; each length
with the product's powers of the length of the run over that of an arm. Where arms go on, nothing
is trained anew."""


if __name__ == "__main__":
    main()
