"""The pipeline: probe → measure → recommend → confirm, and everything put back."""

from __future__ import annotations

from functools import partial
from typing import Never

from batchfinder.arguments import check, objective_named, rule_named
from batchfinder.base_pair import base_of, own_pair
from batchfinder.caveats import about_ranks, caveats_of, facts_of_ranks
from batchfinder.confirm.stage import confirm_choice, with_headroom
from batchfinder.keywords import keywords_named, refuse_unknown
from batchfinder.measure.stage import measure_sizes
from batchfinder.noise import MicroBatchVariance
from batchfinder.noise.stage import estimate_noise, with_noise
from batchfinder.probe import SearchSpace
from batchfinder.probe.stage import probe_sizes
from batchfinder.protocols import LearningRateRule, NoiseEstimator, Objective, Observer
from batchfinder.race import Race
from batchfinder.race.stage import settled_by_race
from batchfinder.recommend import Problem, pair_by_noise
from batchfinder.report import Report
from batchfinder.run.batches import loader_arguments, workers_of
from batchfinder.schedule import schedule_of
from batchfinder.session import not_restored, opened, shared
from batchfinder.training import (
    Autocast,
    Clip,
    GradScaler,
    Loader,
    LossFunction,
    Model,
    Optimizer,
    Scheduler,
    Search,
    StepFunction,
    Training,
    as_list,
    training_of,
)

__all__ = ["find_batch_size"]

# Frozen, so that they can be default arguments: every call gets the same values.
_VARIANCE = MicroBatchVariance()
_SEARCH = Search()

_LONGEST_STEP = 10.0
"""Seconds: nobody would train with larger batches than those whose step takes so long."""


@keywords_named
def find_batch_size(
    model: Model | Training,
    loader: Loader | None = None,
    *,
    loss_fn: LossFunction | None = None,
    train_step: StepFunction | None = None,
    optimizer: Optimizer | None = None,
    scheduler: Scheduler | None = None,
    clip: Clip | None = None,
    autocast: Autocast | None = None,
    grad_scaler: GradScaler | None = None,
    base_batch_size: int | None = None,
    base_learning_rate: float | None = None,
    training_steps: int | None = None,
    memory_limit: int | str | None = None,
    headroom: float = 0.05,
    at_most: int | None = None,
    at_least: int | None = None,
    multiple_of: int = 1,
    powers_of_two: bool = False,
    objective: Objective | str | None = None,
    learning_rate_rule: LearningRateRule | Race | str | None = None,
    noise: NoiseEstimator | None = _VARIANCE,
    search: Search = _SEARCH,
    budget_seconds: float | None = None,
    seed: int = 0,
    observe: Observer | None = None,
    **unknown: Never,
) -> Report:
    """Recommend a batch size and a learning rate for a training.

    Finds which micro-batches fit, measures throughput and gradient noise, recommends a batch size
    and a learning rate, and confirms them by training with the real loader. Restores the model,
    optimizer, random generators and loader bit for bit, also after an exception or Ctrl-C.

    What you train:
        model: the module to train, on its training device; a list or dict of modules with
            ``train_step``; or a ``Training``, which holds everything in this group and more.
        loader: the ``DataLoader`` of the real training (never modified), or a dataset.
        loss_fn: ``(output, target) -> scalar``. Default: the model's own loss, otherwise inferred
            from an ``(input, target)`` batch and stated in the report.
        train_step: ``(model, batch) -> loss``, or ``(loss, weight)``, instead of ``loss_fn``. If it
            returns ``None``, it must run the backward pass and the update itself; there is then no
            noise scale.
        optimizer: the optimizer of the real training. Default: AdamW is assumed.
        scheduler: its learning-rate scheduler, or several.
        clip: a maximum gradient norm, or ``(parameters) -> None``, as in the real training.
        autocast: mixed precision as in the real training: a dtype, ``True``, or a function that
            returns a context.
        grad_scaler: the ``GradScaler`` of the real training.
        base_batch_size: samples per optimizer step of the current training, including accumulation.
            Default: that of the loader.
        base_learning_rate: the learning rate at that batch size. Default: that of the optimizer
            (with a scheduler, its peak), otherwise from a learning-rate range test.
        training_steps: number of optimizer steps of the training at its base batch size. If given,
            the learning rate may be measured (see ``learning_rate_rule``). Batch sizes that leave
            too few steps are not recommended (200; 500 if ``scheduler`` decays). Default: from the
            scheduler, if it defines one.

    Your limits:
        memory_limit: bytes, or text such as ``"512MiB"`` or ``"8GB"``. Simulated on a CPU. Default:
            the free memory of the device.
        headroom: fraction of the limit that the recommended size leaves free.
        at_most: upper bound on the micro-batch size, not exceeded in trials either.
        at_least: lower bound; no smaller size is tried.
        multiple_of: only multiples of this are tried.
        powers_of_two: only powers of two are tried.

    How it decides:
        objective: the criterion: a name ("shortest_time", "highest_throughput", "fewest_samples",
            "least_energy", "largest"), a function from ``batchfinder.recommend``, or a function of
            the candidates. Default: the shortest predicted time.
        learning_rate_rule: how the rate scales with the batch size: a name ("linear",
            "square_root", …), a function from ``batchfinder.scaling`` or your own; or ``Race()``
            ("race"), which measures it. Default: the rule of the optimizer's family, and a race if
            ``training_steps`` is given and the race costs at most a tenth of the training.
        noise: the estimator of the gradient noise scale; ``None`` omits it.

    How it runs:
        search: options for finding the largest size (``Search``).
        budget_seconds: soft limit on the whole call; caveats report what was cut short. Default:
            the time of about 300 of your steps, at most a minute plus 20 of them; a race is added.
        seed: seed of the samples drawn.
        observe: called with every event. Default: prints progress to stderr, on rank 0 only.

    Raises:
        InvalidArgument: if a value is invalid.
        NothingFits: if not even the smallest batch fits.
        CannotBuildBatch, UnknownLoss, NothingToTrain, DeviceMismatch, LossIsNotFinite: see each.
        RanksNotTogether, PeerFailed: if ranks diverge or another rank fails.
    """
    refuse_unknown(find_batch_size, unknown)
    check(
        "find_batch_size",
        base_batch_size=base_batch_size,
        base_learning_rate=base_learning_rate,
        training_steps=training_steps,
        memory_limit=memory_limit,
        headroom=headroom,
        at_most=at_most,
        at_least=at_least,
        multiple_of=multiple_of,
        budget_seconds=budget_seconds,
        noise=noise,
        search=search,
    )
    rule = rule_named("find_batch_size", learning_rate_rule)
    best = objective_named("find_batch_size", objective)
    training = training_of(
        model,
        loader,
        loss_fn=loss_fn,
        train_step=train_step,
        optimizer=optimizer,
        scheduler=scheduler,
        clip=clip,
        autocast=autocast,
        grad_scaler=grad_scaler,
    )
    space = SearchSpace(
        ceiling=at_most,
        floor=at_least or 1,
        resolution=search.resolution,
        multiple_of=multiple_of,
        powers_of_two=powers_of_two,
    )
    with opened(
        training,
        space=space,
        memory_limit=memory_limit,
        base_learning_rate=base_learning_rate,
        budget_seconds=budget_seconds,
        has_default_budget=True,
        seed=seed,
        observe=observe,
        function="find_batch_size",
    ) as call:
        bench = call.bench
        probed = probe_sizes(call, search, step_seconds=_LONGEST_STEP)
        base = base_of(call, probed, base_batch_size, base_learning_rate)
        timed = measure_sizes(
            call,
            probed,
            base=base.batch_size,
            headroom=headroom,
            ran_here=search.isolate is None,
        )
        measurements = timed.measurements
        problem = Problem(
            measurements,
            None,
            base_batch=base.batch_size,
            base_learning_rate=base.learning_rate,
            objective=best,
            max_batch_size=probed.max_batch_size,
            memory=probed.memory,
            headroom=headroom,
            ceiling=at_most,
            floor=at_least or 1,
            probe_limit=probed.limited_by,
            dataset_length=call.dataset_length,
            world_size=call.replicas,
            optimizer_family=bench.step.optimizer_family,
            can_accumulate=not bench.step.updates_itself,
            workers=workers_of(training.loader),
            base_is_yours=base.size_is_yours,
            rate_is_yours=base.rate_is_yours,
            noise_is_wanted=noise is not None,
            training_steps=training_steps,
            schedule=schedule_of(
                as_list(training.scheduler),
                call.dataset_length,
                base.batch_size * call.replicas,
            ),
        )
        findings = estimate_noise(
            call,
            noise,
            probed,
            base,
            measured=measurements,
            # Also as if times were exact: where they scatter much, nothing would move the choice.
            choices=[pair_by_noise(problem), pair_by_noise(problem.timed_exactly())],
        )
        settled = settled_by_race(
            call,
            training,
            rule,
            problem=problem.at_noise(findings.training),
            findings=findings,
            base=base,
            training_steps=training_steps if rule is None else problem.length,
            measure_noise=partial(estimate_noise, call, noise, probed, measured=measurements),
        )
        findings = settled.findings
        recommendation, confirmation = confirm_choice(
            call,
            settled.problem,
            own_pair(settled.known, call.replicas, is_measured=settled.has_raced),
        )
        environment = bench.environment()
        rates = bench.step.group_rates(recommendation.learning_rate)
    lost = not_restored(call)
    facts = facts_of_ranks(call, probed)
    report = Report(
        recommendation=recommendation,
        probe=with_headroom(probed, recommendation),
        measurements=with_noise(measurements, findings),
        noise_scale=findings.training,
        confirmation=confirmation,
        race=settled.result,
        rates=rates if base.rate_is_yours else (),
        loader=loader_arguments(training.loader),
        state_restored=not lost,
        caveats=caveats_of(
            call,
            probed.caveats,
            base.caveats,
            timed.caveats,
            settled.caveats,
            findings.caveats,
            recommendation.caveats,
            about_ranks(call, facts, probed),
            lost,
        ),
        ranks=facts,
        environment=environment,
        base_batch_size=base.batch_size,
        base_learning_rate=base.learning_rate,
        unit=bench.source.unit,
        seconds=tuple(call.spent.items()),
    )
    return shared(call, report)
