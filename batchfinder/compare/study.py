"""Train the user's task at several batch sizes, side by side: the study behind a doubt."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from time import perf_counter
from typing import Any, Never

from batchfinder.arguments import rule_named
from batchfinder.compare.comparison import Comparison, reached_by_all
from batchfinder.compare.conduct import Pairs, Record, Study, unheard
from batchfinder.compare.data import Cell, Ending
from batchfinder.compare.recipe import MakeTraining, Recipe, facts_of
from batchfinder.compare.training import Rules, Stopping
from batchfinder.errors import InvalidArgument
from batchfinder.keywords import keywords_named, refuse_unknown
from batchfinder.protocols import Batch, LearningRateRule, Observer
from batchfinder.report import Report
from batchfinder.results import NoiseScale
from batchfinder.run.state import preserved
from batchfinder.run.switches import gradients_on
from batchfinder.scaling import rule_for
from batchfinder.training import LossFunction, StepFunction
from batchfinder.wording import Caveat

__all__ = ["compare_batch_sizes"]

ASSUMED_RATE = 1e-3


_STOPPING = Stopping()  # frozen: every call gets the same value


@keywords_named
def compare_batch_sizes(
    make_training: MakeTraining,
    make_loader: Callable[[int], Iterable[Batch]] | None = None,
    sizes: Sequence[int] | None = None,
    *,
    loss_fn: LossFunction | None = None,
    train_step: StepFunction | None = None,
    validation_loader: Iterable[Batch] | None = None,
    metric: Callable[[Any, Batch], Any] | None = None,
    report: Report | None = None,
    base_batch_size: int | None = None,
    base_learning_rate: float | None = None,
    learning_rate_rule: LearningRateRule | str | None = None,
    noise: NoiseScale | None = None,
    rate_factors: Sequence[float] = (1.0,),
    seeds: int | Sequence[int] = 3,
    epochs: float = 5.0,
    samples: int | None = None,
    warmup_steps: int = 20,
    schedule: Callable[[float], float] | None = None,
    stopping: Stopping = _STOPPING,
    looks: int = 20,
    memory_limit: int | str | None = None,
    results: str | Path | None = None,
    executor: Executor | None = None,
    budget_seconds: float | None = None,
    observe: Observer | None = None,
    **unknown: Never,
) -> Comparison:
    """Which batch size trains fastest, found by training at each.

    Every training is of a fresh model over the same samples' worth of steps, seed by seed through
    all sizes, so that what has been done so far can be compared at any moment. Random generators
    are afterwards what they were.

    What you train:
        make_training: builds the model, or a ``Training`` of it with loss, optimizer, precision,
            clipping and loader; called once per training, after seeding. Without an optimizer
            AdamW is assumed. A scheduler says the base rate by its peak and is not followed
            (``schedule``).
        make_loader: ``batch_size -> training loader``, shuffled anew at every pass. Left out: the
            loader of the ``Training``, rebuilt at each size.
        loss_fn: ``(output, target) -> scalar``; left out, as in ``find_batch_size``. Also as a
            member of the ``Training``.
        train_step: ``(model, batch) -> loss``, or ``(loss, weight)``, in place of model and loss;
            likewise.
        validation_loader: batches to judge by, read as it is. Left out: the training loss judges.
        metric: ``(model, batch) -> number``, such as an accuracy; its mean over the validation
            loader is shown.

    What is compared:
        sizes: the batch sizes to train at. May be left out beside ``report``: the user's own and
            the recommended one.
        report: what ``find_batch_size`` gave. Its recommended pair is trained exactly,
            accumulation steps and learning rate included, beside the user's own pair; other
            ``sizes`` take the rule's rate at its noise scale.
        base_batch_size: the size that the base rate belongs to. Left out: the report's, else 32 if
            it is among the sizes, else the smallest.
        base_learning_rate: left out: the optimizer's.
        learning_rate_rule: or its name, such as "linear"; left out: by the optimizer's family.
        noise: the noise scale at which the rule saturates. Left out: the report's.
        rate_factors: a small grid around the rule's rate, such as ``(0.5, 1, 2)``; each size is
            then judged by its best.
        seeds: how many, or which.

    How long each trains:
        epochs: passes over the dataset per training; for streams give ``samples``.
        samples: samples per training, in place of ``epochs``.
        warmup_steps: steps over which the rate rises at first.
        schedule: share of the rate over the progress from 0 to 1, such as a cosine.
        stopping: what ends a training earlier: a target for its loss, or no more improvement
            (``Stopping``).
        looks: how often each training is validated.

    How it runs:
        memory_limit: bytes, or "512MiB"; sizes that do not fit are reported and skipped.
        results: a file of JSON lines that finished trainings are kept in; a second call with the
            same file goes on where the first was interrupted.
        executor: any ``concurrent.futures.Executor`` of other processes or machines, which is used
            through ``submit`` alone and not shut down. What the trainings are made of must be
            picklable for it. Each then trains with one thread of torch, unless ``make_training``
            calls ``torch.set_num_threads``. Left out: one training after the other, here.
        budget_seconds: no training is begun after this long; what is missing is a caveat.
        observe: gets a note on every training.

    Raises:
        InvalidArgument: for invalid sizes, seeds or budgets, a training that cannot be run, and an
            executor of threads, which would share random numbers.
        TrainingFailed: with an executor, for an error in the user's code, with its traceback.
    """
    refuse_unknown(compare_batch_sizes, unknown)
    rule_given = rule_named("compare_batch_sizes", learning_rate_rule)
    if rule_given is not None and not callable(rule_given):
        raise InvalidArgument(
            "compare_batch_sizes: expected a learning-rate rule that needs no training; found "
            f"{type(rule_given).__name__}: pass report= from a call that raced, or rate_factors="
        )
    if sizes is None:
        sizes = _sizes_of(report)
    sizes, which_seeds = _checked(sizes, seeds, rate_factors)
    base = base_batch_size or _own_size(report)
    base = base or (32 if 32 in sizes else sizes[0])
    recipe = Recipe(
        make_training=make_training,
        make_loader=make_loader,
        assumed_rate=base_learning_rate or ASSUMED_RATE,
        loss_fn=loss_fn,
        train_step=train_step,
        validation=validation_loader,
        metric=metric,
        memory_limit=memory_limit,
    )
    with gradients_on(), preserved():
        facts = facts_of(recipe, sizes[0])
        rate = base_learning_rate or (report and report.base_learning_rate) or facts.rate
        pairs = Pairs(
            rule_given or rule_for(facts.family).rule, rate or ASSUMED_RATE, base, noise, report
        )
        plan = [
            Cell(
                size,
                rate,
                seed,
                Ending.FINISHED,
                epoch_samples=facts.samples,
                accumulation_steps=pairs.accumulation_at(size),
            )
            for seed in which_seeds
            for size in sizes
            for rate in pairs.rates_at(size, rate_factors)
        ]
        study = Study(
            recipe=recipe,
            rules=Rules(
                samples=_samples(samples, epochs, facts.samples),
                looks=looks,
                warmup_steps=warmup_steps,
                schedule=schedule,
                stopping=stopping,
            ),
            record=Record(results),
            observe=observe or unheard,
            clock=perf_counter,
            executor=executor,
        )
        cells, caveats = study.run(plan, budget_seconds)
    target = stopping.target_loss
    return Comparison(
        cells=tuple(cells),
        target=reached_by_all(cells) if target is None else target,
        base_batch_size=base,
        recommended=None if report is None else report.global_batch_size,
        metric_name=getattr(metric, "__name__", "metric") if metric else "",
        caveats=(
            *caveats,
            *_caveats(validation_loader, which_seeds, facts.has_scheduler and schedule is None),
        ),
    )


def _sizes_of(report: Report | None) -> tuple[int, ...]:
    if report is None:
        raise InvalidArgument(
            "compare_batch_sizes: expected sizes, or a report; found neither: pass the batch "
            "sizes to train at"
        )
    base = _own_size(report)
    return (report.global_batch_size,) if base is None else (base, report.global_batch_size)


def _own_size(report: Report | None) -> int | None:
    """Samples per optimizer step of the user's own training, over all devices."""
    if report is None or report.base_batch_size is None:
        return None
    return report.base_batch_size * report.world_size


def _checked(
    sizes: Sequence[int], seeds: int | Sequence[int], factors: Sequence[float]
) -> tuple[list[int], list[int]]:
    which = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not sizes or min(sizes) < 1:
        raise InvalidArgument(
            f"compare_batch_sizes: expected batch sizes of at least 1; found {list(sizes)}"
        )
    if not which or not factors or min(factors) <= 0:
        raise InvalidArgument(
            "compare_batch_sizes: expected seeds and rate factors above zero; found "
            f"{which} and {list(factors)}"
        )
    return sorted(set(sizes)), which


def _samples(samples: int | None, epochs: float, length: int | None) -> int:
    if samples is None:
        if length is None:
            raise InvalidArgument(
                "compare_batch_sizes: expected samples=: the loader's dataset has no length to "
                "count epochs by"
            )
        samples = math.ceil(epochs * length)
    if samples < 1:
        raise InvalidArgument(
            f"compare_batch_sizes: expected at least one sample per training; found {samples}"
        )
    return samples


def _caveats(
    validation: Iterable[Batch] | None, seeds: Sequence[int], lacks_schedule: bool
) -> Iterator[Caveat]:
    if validation is None:
        yield Caveat("compare.no_validation")
    if len(seeds) < 3:
        yield Caveat("compare.few_seeds", count=len(seeds))
    if lacks_schedule:
        yield Caveat("compare.no_schedule")
