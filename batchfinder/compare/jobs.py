"""One training as a job that can be handed to another process, and what comes back of it."""

from __future__ import annotations

import math
import os
import socket
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from batchfinder.compare.data import Cell, Ending
from batchfinder.compare.recipe import Recipe, peak_of
from batchfinder.compare.training import Rules, train_cell
from batchfinder.errors import InvalidArgument, TrainingFailed
from batchfinder.protocols import Clock
from batchfinder.results import Outcome

__all__ = [
    "Job",
    "Peak",
    "least",
    "micro_batch_of",
    "peak_job",
    "peaks_by",
    "train_job",
    "trained_by",
]

T = TypeVar("T")


@dataclass(frozen=True)
class Peak:
    """How the memory trial of one micro-batch ended, and its peak in bytes."""

    outcome: Outcome
    peak_bytes: int | None


@dataclass(frozen=True)
class Job:
    """A training to be done: everything that another process needs, all of it picklable.

    ``fastest_seconds`` is the least time to the target when the job was made; ``peak`` is the
    memory trial at its size, where it was run before; ``caller`` is the host and process that made
    it.
    """

    recipe: Recipe
    rules: Rules
    asked: Cell
    fastest_seconds: float
    clock: Clock
    peak: Peak | None = None
    caller: tuple[str, int] | None = None


def run_job(job: Job) -> Cell:
    """The training of one job, in a worker.

    Raises:
        InvalidArgument: in the caller's own process: trainings side by side in one process share
            random numbers.
        TrainingFailed: with the user's error as text, which every engine can send back.
    """
    return _in_a_worker(job, train_job)


def run_peak(job: Job) -> Peak:
    """The memory trial at the job's size, in a worker; raises as ``run_job``."""
    return _in_a_worker(job, peak_job)


def _in_a_worker(job: Job, work: Callable[[Job], T]) -> T:
    if job.caller == _here():
        raise InvalidArgument(
            "compare_batch_sizes: expected an executor that uses other processes; found the "
            "caller's own process, where parallel trainings would share random generators. Use "
            "ProcessPoolExecutor, or no executor"
        )
    torch.set_num_threads(1)
    try:
        return work(job)
    except Exception as error:  # noqa: BLE001 - raised again, as text that can travel
        text = "".join(traceback.format_exception(error))
        raise TrainingFailed(
            f"the training at batch size {job.asked.batch_size}, seed {job.asked.seed}, ended with "
            f"{type(error).__name__}: {error}\n{text}"
        ) from None


def peak_job(job: Job) -> Peak:
    """The memory trial at the job's micro-batch, in this process."""
    return Peak(*peak_of(job.recipe, micro_batch_of(job.asked)))


def train_job(job: Job) -> Cell:
    """The training, in this process, unless its memory trial failed; bugs pass as themselves."""
    peak = job.peak or peak_job(job)
    host = socket.gethostname() if job.caller else ""
    asked = replace(job.asked, peak_bytes=peak.peak_bytes, host=host)
    if peak.outcome is not Outcome.FITS:
        return replace(asked, ending=Ending.OUT_OF_MEMORY, note=peak.outcome.words)
    return train_cell(job.recipe, job.rules, asked, fastest=job.fastest_seconds, clock=job.clock)


def trained_by(
    executor: Executor,
    jobs: Iterable[Callable[[], Job]],
    *,
    window: int,
    is_over: Callable[[], bool],
) -> Iterator[Cell]:
    """Cells as they end. A job is made when it is handed in, no more than ``window`` at a time.

    A worker that died gives a cell that ended ``LOST``; a broken pool takes nothing more, and one
    is given for every job that was still out.

    Raises:
        InvalidArgument, TrainingFailed: as ``run_job`` does.
    """
    waiting = iter(jobs)
    out: dict[Future[Cell], Job] = {}
    broken = False
    try:
        while True:
            while len(out) < window and not broken and not is_over():
                make = next(waiting, None)
                if make is None:
                    break
                job = replace(make(), caller=_here())
                try:
                    out[executor.submit(run_job, job)] = job
                except RuntimeError as error:  # a pool whose worker died takes nothing more
                    broken = True
                    yield _lost(job, error)
            if not out:
                return
            done, _ = wait(out, return_when=FIRST_COMPLETED)
            for future in done:
                yield _result(future, out.pop(future))
    finally:
        for future in out:
            with suppress(NotImplementedError):  # by an engine that cannot; it runs on unheard
                future.cancel()


def peaks_by(executor: Executor, jobs: Iterable[Job]) -> dict[int, Peak]:
    """The memory trial of every job's micro-batch, one for each size; lost ones are left out.

    Raises:
        InvalidArgument, TrainingFailed: as ``run_job`` does.
    """
    out: dict[int, Future[Peak]] = {}
    for job in jobs:
        size = micro_batch_of(job.asked)
        if size not in out:
            try:
                out[size] = executor.submit(run_peak, replace(job, caller=_here()))
            except RuntimeError:  # a broken pool: the trainings will say so
                break
    found = {}
    for size, future in out.items():
        try:
            found[size] = future.result()
        except (InvalidArgument, TrainingFailed):
            raise
        except Exception:  # noqa: BLE001 - a worker that died; its trainings will say so
            continue
    return found


def micro_batch_of(asked: Cell) -> int:
    """Samples in one micro-batch of a cell."""
    return asked.batch_size // asked.accumulation_steps


def _result(future: Future[Cell], job: Job) -> Cell:
    try:
        return future.result()
    except (InvalidArgument, TrainingFailed):
        raise
    except Exception as error:  # noqa: BLE001 - each engine has its own for a dead worker
        return _lost(job, error)


def _lost(job: Job, error: Exception) -> Cell:
    said = f"{type(error).__name__}: {error}".splitlines()[0]
    return replace(job.asked, ending=Ending.LOST, note=said[:200])


def _here() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


def least(cells: Iterable[Cell], target: float | None) -> float:
    """The least seconds to the target so far; ``inf`` without one."""
    if target is None:
        return math.inf
    return min((cell.reach(target, lambda look: look.seconds) for cell in cells), default=math.inf)
