"""Train the user's task at several batch sizes, side by side: the study behind a doubt."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from batchfinder.compare.cells import Cell, Ending
from batchfinder.compare.comparison import Comparison, reached_by_all
from batchfinder.compare.recipe import Loss, Recipe, peak_of, rate_and_family
from batchfinder.compare.record import Record
from batchfinder.compare.rendering import number
from batchfinder.compare.training import Rules, train_cell
from batchfinder.errors import InvalidArgument
from batchfinder.protocols import Batch, Clock, LearningRateRule, Observer
from batchfinder.results import NoiseScale, Note, Outcome
from batchfinder.run.grad_mode import gradients_on
from batchfinder.run.state import preserved
from batchfinder.scaling import rule_for
from batchfinder.units import format_size

__all__ = ["compare_batch_sizes"]

ASSUMED_RATE = 1e-3


def compare_batch_sizes(
    make_model: Callable[[], torch.nn.Module],
    make_loader: Callable[[int], Iterable[Batch]],
    sizes: Sequence[int],
    *,
    make_optimizer: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer] | None = None,
    loss_fn: Any = None,
    train_step: Any = None,
    validation_loader: Iterable[Batch] | None = None,
    metric: Callable[[Any, Batch], Any] | None = None,
    base_batch_size: int | None = None,
    base_learning_rate: float | None = None,
    learning_rate_rule: LearningRateRule | None = None,
    noise: NoiseScale | None = None,
    rate_factors: Sequence[float] = (1.0,),
    seeds: int | Sequence[int] = 3,
    epochs: float = 5.0,
    samples: int | None = None,
    target_loss: float | None = None,
    recommended: int | None = None,
    warmup_steps: int = 20,
    schedule: Callable[[float], float] | None = None,
    looks: int = 20,
    patience: float = 3.0,
    memory_limit: int | str | None = None,
    autocast: Any = None,
    make_grad_scaler: Callable[[], Any] | None = None,
    results: str | Path | None = None,
    budget_seconds: float | None = None,
    clock: Clock = time.perf_counter,
    observe: Observer | None = None,
) -> Comparison:
    """Which batch size trains fastest, found by training at each.

    Every training is of a fresh model over the same samples' worth of steps, seed by seed through
    all sizes, so that what has been done so far can be compared at any moment. Random generators
    are afterwards what they were.

    Args:
        make_model: builds the model where it is to be trained; called once per training, after
            seeding.
        make_loader: ``batch_size -> training loader``, shuffled anew at every pass.
        sizes: the batch sizes to train at.
        make_optimizer: ``parameters -> optimizer`` at the base rate. Left out: AdamW.
        loss_fn: ``(output, target) -> scalar``; left out, as in ``find_batch_size``.
        train_step: ``(model, batch) -> scalar``, in place of model and loss.
        validation_loader: batches to judge by. Left out: the training loss judges.
        metric: ``(model, batch) -> number``, such as an accuracy; its mean over the validation
            loader is shown.
        base_batch_size: the size that the base rate belongs to. Left out: 32 if it is among the
            sizes, else the smallest.
        base_learning_rate: left out: the optimizer's.
        learning_rate_rule: left out: by the optimizer's family.
        noise: the noise scale at which the rule saturates.
        rate_factors: a small grid around the rule's rate, such as ``(0.5, 1, 2)``; each size is
            then judged by its best.
        seeds: how many, or which.
        epochs: passes over the dataset per training; for streams give ``samples``.
        samples: samples per training, in place of ``epochs``.
        target_loss: the loss that times are measured to. Left out: the lowest that every training
            which used its budget has reached.
        recommended: the size whose regret is printed first.
        warmup_steps: steps over which the rate rises at first.
        schedule: share of the rate over the progress from 0 to 1, such as a cosine.
        looks: how often each training is validated.
        patience: with ``target_loss``, a training is stopped that takes this many times as long
            as the fastest so far without having met it.
        memory_limit: bytes, or "512MiB"; sizes that do not fit are said so, not trained.
        autocast: mixed precision as in the real training.
        make_grad_scaler: builds a ``GradScaler``, once per training.
        results: a file of JSON lines that finished trainings are kept in; a second call with the
            same file goes on where the first was interrupted.
        budget_seconds: no training is begun after this long; what is missing is a caveat.
        clock: seconds, for the training times.
        observe: gets a note on every training.

    Raises:
        InvalidArgument: for sizes, seeds or a budget that cannot be meant.
    """
    recipe = Recipe(
        make_model=make_model,
        make_loader=make_loader,
        make_optimizer=make_optimizer or _assumed_optimizer(base_learning_rate),
        loss=Loss(loss_fn, train_step),
        validation=validation_loader,
        metric=metric,
        autocast=autocast,
        make_grad_scaler=make_grad_scaler,
        memory_limit=memory_limit,
    )
    sizes, which_seeds = _checked(sizes, seeds, rate_factors)
    base = base_batch_size or (32 if 32 in sizes else sizes[0])
    with gradients_on(), preserved():
        length = _length(make_loader(sizes[0]))
        rules = Rules(
            samples=_samples(samples, epochs, length),
            looks=looks,
            warmup_steps=warmup_steps,
            schedule=schedule,
            target=target_loss,
            patience=patience,
        )
        own_rate, family = rate_and_family(recipe)
        rule = learning_rate_rule or rule_for(family).rule
        rate = base_learning_rate or own_rate or ASSUMED_RATE
        plan = [
            Cell(size, rule(rate, base, size, noise) * factor, seed, Ending.FINISHED)
            for seed in which_seeds
            for size in sizes
            for factor in rate_factors
        ]
        study = _Study(recipe, rules, Record(results), observe or _unheard, clock, length)
        cells, caveats = study.run(plan, budget_seconds)
    return Comparison(
        cells=tuple(cells),
        target=reached_by_all(cells) if target_loss is None else target_loss,
        base_batch_size=base,
        recommended=recommended,
        metric_name=getattr(metric, "__name__", "metric") if metric else "",
        caveats=(*caveats, *_caveats(validation_loader, which_seeds)),
    )


@dataclass
class _Study:
    """The trainings, one after the other."""

    recipe: Recipe
    rules: Rules
    record: Record
    observe: Observer
    clock: Clock
    epoch_samples: int | None

    def run(self, plan: Sequence[Cell], budget: float | None) -> tuple[list[Cell], list[str]]:
        started, peaks = self.clock(), dict[int, tuple[Outcome, int | None]]()
        cells: list[Cell] = []
        for asked in plan:
            known = self.record.find(self._key(asked))
            if known is None:
                if budget is not None and self.clock() - started > budget:
                    continue
                if asked.batch_size not in peaks:
                    peaks[asked.batch_size] = peak_of(self.recipe, asked.batch_size)
                known = self._trained(asked, *peaks[asked.batch_size], cells)
                self.record.add(self._key(asked), known)
            cells.append(known)
        missing = len(plan) - len(cells)
        return cells, [f"{missing} of {len(plan)} trainings had no time left"] * bool(missing)

    def _trained(
        self, asked: Cell, outcome: Outcome, peak: int | None, done: Iterable[Cell]
    ) -> Cell:
        asked = replace(asked, peak_bytes=peak, epoch_samples=self.epoch_samples)
        if outcome is not Outcome.FITS:
            return replace(asked, ending=Ending.OUT_OF_MEMORY, note=outcome.value)
        cell = train_cell(
            self.recipe, self.rules, asked, fastest=self._fastest(done), clock=self.clock
        )
        loss = cell.final(lambda look: look.loss)
        self.observe(
            Note(
                f"batch {format_size(cell.batch_size)} at {cell.learning_rate:.3g}, "
                f"seed {cell.seed}: loss {number(loss)}, {cell.ending.value}"
            )
        )
        return cell

    def _fastest(self, done: Iterable[Cell]) -> float:
        if self.rules.target is None:
            return math.inf
        target = self.rules.target
        return min((c.reach(target, lambda look: look.seconds) for c in done), default=math.inf)

    def _key(self, asked: Cell) -> str:
        """What was asked of a training: another budget or target is another training."""
        return json.dumps(
            [
                asked.batch_size,
                f"{asked.learning_rate:.6g}",
                asked.seed,
                self.rules.samples,
                self.rules.looks,
                self.rules.warmup_steps,
                self.rules.target,
            ]
        )


def _assumed_optimizer(
    rate: float | None,
) -> Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.AdamW(parameters, lr=rate or ASSUMED_RATE)


def _checked(
    sizes: Sequence[int], seeds: int | Sequence[int], factors: Sequence[float]
) -> tuple[list[int], list[int]]:
    which = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not sizes or min(sizes) < 1:
        raise InvalidArgument(f"expected batch sizes of at least 1; found {list(sizes)}")
    if not which or not factors or min(factors) <= 0:
        raise InvalidArgument(
            f"expected seeds and rate factors above zero; found {which} and {list(factors)}"
        )
    return sorted(set(sizes)), which


def _length(loader: Iterable[Batch]) -> int | None:
    dataset = getattr(loader, "dataset", None)
    return len(dataset) if isinstance(dataset, Sized) else None


def _samples(samples: int | None, epochs: float, length: int | None) -> int:
    if samples is None:
        if length is None:
            raise InvalidArgument(
                "expected samples=: the loader's dataset has no length to count epochs by"
            )
        samples = math.ceil(epochs * length)
    if samples < 1:
        raise InvalidArgument(f"expected at least one sample per training; found {samples}")
    return samples


def _caveats(validation: Iterable[Batch] | None, seeds: Sequence[int]) -> Iterator[str]:
    if validation is None:
        yield "No validation loader: sizes are compared by their training loss."
    if len(seeds) < 3:
        yield f"{len(seeds)} seed(s): differences between sizes may be chance."


def _unheard(event: object) -> None:
    """The observer of those who pass none."""
