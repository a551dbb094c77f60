"""The trainings of a study: at which rate each size is trained, carried out and kept."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from batchfinder import encoding
from batchfinder.compare.data import Cell, Ending
from batchfinder.compare.jobs import (
    Job,
    Peak,
    least,
    micro_batch_of,
    peak_job,
    peaks_by,
    train_job,
    trained_by,
)
from batchfinder.compare.recipe import Recipe
from batchfinder.compare.training import Rules
from batchfinder.protocols import Clock, LearningRateRule, Observer
from batchfinder.report import Report
from batchfinder.results import NoiseScale, Note
from batchfinder.wording import Caveat

__all__ = ["Pairs", "Record", "Study", "unheard"]


class Record:
    """Trainings by what was asked of them. Without a path, in memory alone."""

    def __init__(self, path: str | Path | None) -> None:
        self._path = None if path is None else Path(path)
        self._cells: dict[str, Cell] = {}
        if self._path is not None and self._path.exists():
            text = self._path.read_text(encoding="utf-8")
            for line in text.splitlines():
                with suppress(json.JSONDecodeError):  # cut short by an interruption: run again
                    row = json.loads(line)
                    self._cells[row["asked"]] = encoding.decode(Cell, row["cell"])
            if text and not text.endswith("\n"):
                self._path.write_text(text + "\n", encoding="utf-8")

    def find(self, asked: str) -> Cell | None:
        return self._cells.get(asked)

    def add(self, asked: str, cell: Cell) -> None:
        self._cells[asked] = cell
        if self._path is None:
            return
        line = json.dumps({"asked": asked, "cell": encoding.encode(cell)})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


@dataclass
class Study:
    """How the cells of a plan come about; ``done`` and ``peaks`` fill up on the way."""

    recipe: Recipe
    rules: Rules
    record: Record
    observe: Observer
    clock: Clock
    executor: Executor | None = None
    done: list[Cell] = field(default_factory=list)
    peaks: dict[int, Peak] = field(default_factory=dict)

    def run(self, plan: Sequence[Cell], budget: float | None) -> tuple[list[Cell], list[Caveat]]:
        """The cells in the order of ``plan``, and caveats."""
        started = self.clock()

        def is_over() -> bool:
            return budget is not None and self.clock() - started > budget

        missing = []
        for asked in plan:
            known = self.record.find(self._key(asked))
            if known is None:
                missing.append(asked)
            else:
                self.done.append(known)
        if self.executor is None:
            for asked in missing:
                if not is_over():
                    self._keep(train_job(self._job(asked)))
        else:
            self.peaks.update(peaks_by(self.executor, map(self._job, missing)))
            jobs = [partial(self._job, asked) for asked in missing]
            window = 2 * (os.cpu_count() or 1)
            for cell in trained_by(self.executor, jobs, window=window, is_over=is_over):
                self._keep(cell)
        order = {self._key(asked): place for place, asked in enumerate(plan)}
        cells = sorted(self.done, key=lambda cell: order[self._key(cell)])
        return cells, self._caveats(len(plan))

    def _job(self, asked: Cell) -> Job:
        fastest, size = least(self.done, self.rules.stopping.target_loss), micro_batch_of(asked)
        job = Job(self.recipe, self.rules, asked, fastest, self.clock)
        if self.executor is None and size not in self.peaks:
            self.peaks[size] = peak_job(job)
        return replace(job, peak=self.peaks.get(size))

    def _keep(self, cell: Cell) -> None:
        self.done.append(cell)
        if cell.ending is not Ending.LOST:  # tried again by the next call with the same file
            self.record.add(self._key(cell), cell)
        loss = cell.final(lambda look: look.loss)
        self.observe(
            Note(
                Caveat(
                    "compare.trained",
                    batch=cell.batch_size,
                    rate=cell.learning_rate,
                    seed=cell.seed,
                    loss=loss,
                    ending=cell.ending.name,
                )
            )
        )

    def _caveats(self, planned: int) -> list[Caveat]:
        said: list[Caveat] = []
        if len(self.done) < planned:
            said.append(Caveat("compare.no_time", count=planned - len(self.done), of=planned))
        lost = sum(cell.ending is Ending.LOST for cell in self.done)
        if lost:
            said.append(Caveat("compare.lost", count=lost, of=planned))
        hosts = {cell.host for cell in self.done if cell.host}
        if len(hosts) > 1:
            said.append(Caveat("compare.machines", hosts=tuple(sorted(hosts))))
        if self.executor is not None and self.rules.stopping.target_loss is not None:
            said.append(Caveat("compare.side_by_side"))
        return said

    def _key(self, asked: Cell) -> str:
        """What was asked of a training: another budget or target is another training."""
        return json.dumps(
            [
                asked.batch_size,
                f"{asked.learning_rate:.6g}",
                asked.seed,
                asked.accumulation_steps,
                self.rules.samples,
                self.rules.looks,
                self.rules.warmup_steps,
                self.rules.stopping.target_loss,
                self.rules.stopping.early_stopping,
            ]
        )


def unheard(event: object) -> None:
    """The observer of those who pass none."""


@dataclass(frozen=True)
class Pairs:
    """The rate and the accumulation steps of every size: a report's own, else the rule's."""

    rule: LearningRateRule
    base_rate: float
    base: int
    noise: NoiseScale | None
    report: Report | None

    def rate_at(self, size: int) -> float:
        """The report's rate at its own size, else the rule's."""
        noise = self.noise
        if self.report is not None:
            if size == self.report.global_batch_size and self.report.learning_rate is not None:
                return self.report.learning_rate
            noise = noise or self.report.noise_scale
        return self.rule(self.base_rate, self.base, size, noise)

    def rates_at(self, size: int, factors: Sequence[float]) -> list[float]:
        """The grid around the rate of a size; beside a report's rate at the user's size, theirs."""
        rates = [self.rate_at(size) * factor for factor in factors]
        own = self.report is not None and size == self.base
        if own and not any(math.isclose(each, self.base_rate, rel_tol=1e-6) for each in rates):
            rates.append(self.base_rate)
        return rates

    def accumulation_at(self, size: int) -> int:
        """Into how many micro-batches a step is cut."""
        if self.report is None or size != self.report.global_batch_size:
            return 1
        return self.report.accumulation_steps * self.report.world_size
