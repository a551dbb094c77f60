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
    """Compare batch sizes by training at each of them.

    Every training uses a new model and the same number of samples. Seeds are run one after the
    other over all sizes, so partial results can always be compared. Random generators are restored.

    What you train:
        make_training: builds the model, or a ``Training`` of it with loss, optimizer, precision,
            clipping and loader; called once per training, after seeding. Without an optimizer AdamW
            is assumed. The peak of a scheduler is the base rate; the scheduler itself is not used
            (see ``schedule``).
        make_loader: ``batch_size -> training loader``, reshuffled at every epoch. Default: the
            loader of the ``Training``, rebuilt at each size.
        loss_fn: ``(output, target) -> scalar``, or a member of the ``Training``. Default: as in
            ``find_batch_size``.
        train_step: ``(model, batch) -> loss``, or ``(loss, weight)``, instead of ``loss_fn``; or a
            member of the ``Training``.
        validation_loader: validation batches. Default: sizes are compared by training loss.
        metric: ``(model, batch) -> number``, such as an accuracy; its mean over the validation
            loader is reported.

    What is compared:
        sizes: the batch sizes to train at. Default with ``report``: the user's own and the
            recommended one.
        report: a report of ``find_batch_size``. Its recommended pair, with accumulation steps and
            learning rate, and the user's own pair are trained; other ``sizes`` use the rate of the
            rule at its noise scale.
        base_batch_size: the batch size of the base rate. Default: that of the report, otherwise 32
            if it is among the sizes, otherwise the smallest.
        base_learning_rate: the learning rate at that size. Default: that of the optimizer.
        learning_rate_rule: a rule or its name, such as "linear". Default: the rule of the
            optimizer's family.
        noise: the noise scale that caps the rule. Default: that of the report.
        rate_factors: a small grid around the rule's rate, such as ``(0.5, 1, 2)``; each size is
            then compared at its best rate.
        seeds: the number of seeds, or the seeds.

    How long each trains:
        epochs: passes over the dataset per training; for streams give ``samples``.
        samples: samples per training, instead of ``epochs``.
        warmup_steps: steps over which the rate increases at the start.
        schedule: fraction of the rate as a function of the progress from 0 to 1, such as a cosine.
        stopping: criteria for ending a training early (``Stopping``).
        looks: number of validations per training.

    How it runs:
        memory_limit: bytes, or "512MiB"; sizes that do not fit are reported and skipped.
        results: a JSON Lines file for finished trainings; a second call with the same file resumes
            an interrupted study.
        executor: a ``concurrent.futures.Executor`` that uses other processes or machines; only
            ``submit`` is called, and it is not shut down. Arguments must be picklable. Each
            training uses one torch thread, unless ``make_training`` calls
            ``torch.set_num_threads``. Default: trainings run sequentially in this process.
        budget_seconds: no training starts after this time; caveats report missing trainings.
        observe: called with a note on every training.

    Raises:
        InvalidArgument: for invalid sizes, seeds or budgets, a training that cannot be run, and a
            thread pool, whose trainings would share random generators.
        TrainingFailed: with an executor, if the user's code raises an error; includes its
            traceback.
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
