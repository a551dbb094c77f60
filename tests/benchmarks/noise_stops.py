"""Warm-ups that end early: how often, the steps saved, and the effect on the answer.

``python tests/benchmarks/noise_stops.py WALKS.pickle [TASK …]`` takes warm-ups of 200 steps on the
tasks of ``tasks.py`` at batches of 8, 32 and 128, and keeps what each could still have come to
predict at every moment at which it might have ended. Then problems are made of step times
1 + B / knee, with memory for twice the user's batch and for 1,024, and the rule of the noise stage
is asked of each. Written to ``docs/tables/noise_stops.md``: how many end early, the processor time
saved, how many recommend what the whole warm-up does, and how many pairs of seeds recommend the
same. WALKS.pickle keeps the warm-ups; what is in it is not run again.
"""

from __future__ import annotations

import functools
import itertools
import math
import pickle
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.nn import functional
from torch.utils.data import TensorDataset

sys.path.append(str(Path(__file__).parent.parent / "support"))
from noise_cases import Population
from noise_growth import step_of
from patience import SmallGpt, training
from recommend_cases import affine, problem
from tasks import TASKS, Task

from batchfinder.noise import MicroBatchVariance, noise_along_warmup
from batchfinder.noise.stage import Choice, decides, is_same_pair
from batchfinder.recommend import Pair, pair_by_noise
from batchfinder.results import NoiseScale

TABLE = Path(__file__).parent.parent.parent / "docs" / "tables" / "noise_stops.md"
BASES, SEEDS, STEPS = (8, 32, 128), (0, 1, 2), 200
KNEES, LARGEST = (8, 64, 512), 1024


def chain() -> tuple[TensorDataset, TensorDataset]:
    """A chain of characters that is learned within the warm-up, so that the noise scale leaps."""
    inputs, _ = training(48)[1].dataset.tensors  # type: ignore[attr-defined]
    return TensorDataset(inputs), TensorDataset(inputs[:256])


FAST = Task(
    "chain of characters, learned fast",
    "adam",
    lambda: SmallGpt(2, 64, 47),
    chain,
    lambda model, batch: functional.cross_entropy(model(batch[0][:, :-1]), batch[0][:, 1:]),
    1.5,
    (8,),
    1e-3,
)


@dataclass
class Moment:
    """What the rest might have shown after so many steps and seconds."""

    steps: int
    seconds: float
    outcomes: list[NoiseScale]


@dataclass
class Walk:
    """One whole warm-up."""

    task: str
    family: str
    base: int
    seed: int
    moments: list[Moment] = field(default_factory=list)
    seconds: float = 0.0
    found: NoiseScale | None = None


def walked(task: Task, base: int, seed: int) -> Walk:
    """A warm-up at the rate of batch 32, by the square root of the batch."""
    walk = Walk(task.name, task.family, base, seed)
    step = step_of(task, task.first_rate * (base / 32) ** 0.5, seed)
    taken, started = 0, time.process_time()

    def advance(samples: int, steps: int = 1) -> None:
        nonlocal taken
        taken += steps

    def is_enough(outcomes: Sequence[NoiseScale]) -> bool:
        walk.moments.append(Moment(taken, time.process_time() - started, list(outcomes)))
        return False

    found = noise_along_warmup(
        step,
        Population(*task.data()[0].tensors, length=True),
        base_batch=base,
        micro_batch=base,
        warmup_steps=STEPS,
        estimator=MicroBatchVariance(),
        seed=1000 * seed,
        advance=advance,
        is_enough=is_enough,
        sizes=(base, 4 * base, 16 * base),
    )
    walk.seconds, walk.found = time.process_time() - started, found.training
    return walk


def walks_of(path: Path, names: Sequence[str]) -> list[Walk]:
    """Those kept in ``path``, and those still missing there."""
    walks: list[Walk] = pickle.loads(path.read_bytes()) if path.exists() else []
    known = {(walk.task, walk.base, walk.seed) for walk in walks}
    for task, base, seed in itertools.product((*TASKS, FAST), BASES, SEEDS):
        wanted = not names or any(name in task.name for name in names)
        if wanted and base in task.sizes and (task.name, base, seed) not in known:
            walks.append(walked(task, base, seed))
            path.write_bytes(pickle.dumps(walks))
    return walks


@functools.cache
def choices_of(base: int, family: str, knee: int, most: int) -> list[Choice]:
    """As ``find_batch_size`` asks: with the times as measured, and as if they were exact."""
    sizes = tuple(2**power for power in range(12) if base / 16 <= 2**power <= most)
    given = problem(
        affine(sizes, half_speed=knee, spread=0.03, update=0.05),
        noise=None,
        base_batch=base,
        base_learning_rate=1e-3,
        base_is_yours=True,
        optimizer_family=family,
        noise_is_wanted=True,
    )
    return [pair_by_noise(given), pair_by_noise(given.timed_exactly())]


@dataclass
class Answer:
    """Of one warm-up on one problem: whole, and where it would have ended."""

    walk: Walk
    case: tuple[int, int]
    whole: Pair
    early: Pair
    ended: Moment | None

    @property
    def holds(self) -> bool:
        """Whether the interval at the early end holds what the whole warm-up predicts."""
        if self.ended is None or self.walk.found is None:
            return True
        now = self.ended.outcomes[-1]
        return now.low <= self.walk.found.value <= now.high

    @property
    def saved(self) -> float:
        return 0.0 if self.ended is None else 1 - self.ended.seconds / self.walk.seconds


def answers(walks: Sequence[Walk]) -> Iterator[Answer]:
    for walk in walks:
        for knee, most in itertools.product(KNEES, (2 * walk.base, LARGEST)):
            choices = choices_of(walk.base, walk.family, knee, most)
            ended = next((each for each in walk.moments if decides(choices, each.outcomes)), None)
            whole = choices[0](walk.found)
            early = whole if ended is None else choices[0](ended.outcomes[-1])
            yield Answer(walk, (knee, most), whole, early, ended)


def across_seeds(found: Sequence[Answer], which: str) -> float:
    """Share of the pairs of seeds, of one task, base and problem, that recommend the same."""
    pairs = [
        is_same_pair(getattr(one, which), getattr(other, which))
        for one, other in itertools.combinations(found, 2)
        if (one.walk.task, one.walk.base, one.case)
        == (other.walk.task, other.walk.base, other.case)
    ]
    return statistics.fmean(pairs) if pairs else math.nan


def row(name: str, found: Sequence[Answer]) -> str:
    ended = [each for each in found if each.ended is not None]
    same = [is_same_pair(each.whole, each.early) for each in ended]
    held = [each.holds for each in ended]
    after = statistics.median(each.ended.steps for each in ended if each.ended) if ended else 0
    return (
        f"| {name} | {len(ended)} of {len(found)} | {after:.0f} "
        f"| {statistics.fmean(each.saved for each in found):.0%} "
        f"| {sum(same)} of {len(same)} | {sum(held)} of {len(held)} "
        f"| {across_seeds(found, 'whole'):.0%} | {across_seeds(found, 'early'):.0%} |"
    )


def main() -> None:
    torch.set_num_threads(1)
    found = list(answers(walks_of(Path(sys.argv[1]), sys.argv[2:])))
    groups: dict[str, list[Answer]] = {}
    for each in found:
        groups.setdefault(f"batch {each.walk.base}", []).append(each)
    for each in found:
        groups.setdefault(each.walk.task, []).append(each)
    lines = [
        "# Warm-ups that end early",
        "",
        "Made by `python tests/benchmarks/noise_stops.py WALKS.pickle` "
        f"(torch {torch.__version__}, one thread): "
        f"warm-ups of {STEPS} steps, three seeds each, and problems with step times 1 + B / knee "
        f"for knees of {', '.join(map(str, KNEES))} and memory for twice the user's batch or for "
        f"{LARGEST:,}. Saved is processor time of the noise stage, those not ended counted as 0.",
        "",
        "| warm-ups | end early | after, median | saved | of these recommend what the whole "
        "warm-up does | their interval holds its value | seeds agree, whole "
        "| seeds agree, ended early |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        row("all", found),
        *(row(name, each) for name, each in groups.items()),
        "",
    ]
    print("\n".join(lines))
    for each in found:
        if each.ended is not None and not is_same_pair(each.whole, each.early):
            sizes = each.early[0].global_batch, each.whole[0].global_batch
            print(
                each.walk.task, each.walk.base, each.walk.seed, each.case, each.ended.steps, *sizes
            )
    if not sys.argv[2:]:
        TABLE.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
