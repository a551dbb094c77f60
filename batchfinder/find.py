"""The staircase: probe → measure → recommend → confirm, and everything put back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from batchfinder.arguments import check
from batchfinder.base_pair import base_of
from batchfinder.caveats import caveats_of
from batchfinder.confirm.stage import confirm_choice, with_headroom
from batchfinder.measure.stage import measure_sizes
from batchfinder.noise import MicroBatchVariance
from batchfinder.noise.stage import estimate_noise, with_noise
from batchfinder.probe import Propose, SearchSpace, guided
from batchfinder.probe.stage import Search, probe_sizes
from batchfinder.protocols import LearningRateRule, NoiseEstimator, Objective, Observer
from batchfinder.recommend import recommend
from batchfinder.report import Report
from batchfinder.run.bench import Handed
from batchfinder.run.isolate import Factory
from batchfinder.session import loader_overlaps, not_restored, opened, world_size

__all__ = ["find_batch_size"]

# Frozen, so that it can be a default argument: every call gets the same value.
_VARIANCE = MicroBatchVariance()


def find_batch_size(
    model: Any,
    loader: Any,
    *,
    loss_fn: Any = None,
    train_step: Any = None,
    optimizer: Any = None,
    base_batch_size: int | None = None,
    base_learning_rate: float | None = None,
    memory_limit: int | str | None = None,
    headroom: float = 0.05,
    resolution: float = 0.02,
    max_batch_size: int | None = None,
    multiple_of: int = 1,
    powers_of_two: bool = False,
    autocast: Any = None,
    grad_scaler: Any = None,
    objective: Objective | None = None,
    learning_rate_rule: LearningRateRule | None = None,
    noise: NoiseEstimator | None = _VARIANCE,
    warmup_steps: int | None = None,
    budget_seconds: float | None = None,
    seed: int = 0,
    observe: Observer | None = None,
    propose: Propose = guided,
    isolate: Factory | None = None,
    cache: str | os.PathLike[str] | None = None,
    make_loader: Any = None,
    preserve: Sequence[Any] = (),
) -> Report:
    """Which batch size should this model train with, and at which learning rate?

    Probes which micro-batches fit, measures what each costs and buys, recommends one, and
    confirms it by training on the real loader. Model, optimizer, random numbers and loader are
    afterwards bit for bit what they were, after an exception and Ctrl-C too.

    Args:
        model: the module to train, where it is to be trained; or a list or dict of modules with
            ``train_step``.
        loader: the ``DataLoader`` of the real training (never touched), or a dataset.
        loss_fn: ``(output, target) -> scalar``. Left out: the model's own loss, else inferred
            from an ``(input, target)`` batch and said so in the report.
        train_step: ``(model, batch) -> scalar loss`` in place of model and loss. One that returns
            ``None`` does its own backward and update; the noise scale is then absent.
        optimizer: the optimizer of the real training, as it is. Left out: AdamW is assumed.
        base_batch_size: the size that the training works with. Left out: the loader's.
        base_learning_rate: the rate that goes with it. Left out: the optimizer's, else one from
            a learning-rate range test.
        memory_limit: bytes, or ``"512MiB"``, ``"8GB"``. Simulated on a CPU. Left out: what the
            device has free.
        headroom: share of the limit that the recommended size leaves free.
        resolution: the search ends when the largest size that fits and the smallest that does
            not are this close, relatively; 0 is exact.
        max_batch_size: a ceiling, never exceeded, in trials either.
        multiple_of: only multiples of this are tried.
        powers_of_two: only powers of two are tried.
        autocast: mixed precision as in the real training: a dtype, ``True``, or a function that
            returns a context.
        grad_scaler: the ``GradScaler`` of the real training.
        objective: what is best, as a value of ``batchfinder.recommend`` or a function over
            candidates. Left out: the shortest predicted time.
        learning_rate_rule: a value of ``batchfinder.scaling`` or a function. Left out: chosen by
            the optimizer's family.
        noise: how the gradient noise scale is estimated; ``None`` leaves it out.
        warmup_steps: optimizer steps taken, then undone, along which the noise scale is
            measured. Left out: 200, or 50 where the optimizer is in the middle of a training.
        budget_seconds: soft limit on the whole call; what it cut is a caveat.
        seed: makes two calls draw the same samples.
        observe: gets every event. Left out: rows on stderr.
        propose: the search, a function of the trials so far.
        isolate: a function at the top level of an importable module that returns
            ``{"model": ..., "loader": ..., ...}``; every trial then runs in a child process.
        cache: a file that remembers largest sizes; one trial checks each before it is believed.
        make_loader: ``batch_size -> loader``, where the loader cannot be rebuilt.
        preserve: further objects with ``state_dict`` to put back.

    Raises:
        InvalidArgument: a value that cannot be meant.
        NothingFits: not even the smallest batch fits.
        CannotBuildBatch, UnknownLoss, NothingToTrain, DeviceMismatch, LossIsNotFinite: see each.
    """
    check(
        base_batch_size=base_batch_size,
        base_learning_rate=base_learning_rate,
        headroom=headroom,
        resolution=resolution,
        max_batch_size=max_batch_size,
        multiple_of=multiple_of,
        warmup_steps=warmup_steps,
        budget_seconds=budget_seconds,
        memory_limit=memory_limit,
    )
    handed = Handed(
        model,
        loader,
        loss_fn=loss_fn,
        train_step=train_step,
        optimizer=optimizer,
        autocast=autocast,
        grad_scaler=grad_scaler,
        make_loader=make_loader,
        preserve=preserve,
        memory_limit=memory_limit,
        base_learning_rate=base_learning_rate,
        seed=seed,
    )
    space = SearchSpace(
        ceiling=max_batch_size,
        resolution=resolution,
        multiple_of=multiple_of,
        powers_of_two=powers_of_two,
    )
    with opened(handed, observe, budget_seconds) as call:
        bench = call.bench
        probed = probe_sizes(call, Search(space, propose, isolate, cache))
        base = base_of(call, probed, base_batch_size, base_learning_rate)
        measurements = measure_sizes(call, probed, space, base=base.batch_size, headroom=headroom)
        findings = estimate_noise(
            call, noise, probed, base, warmup_steps=warmup_steps, measured=measurements
        )
        choose = partial(
            recommend,
            measurements,
            base_batch=base.batch_size,
            base_learning_rate=base.learning_rate,
            rule=learning_rate_rule,
            objective=objective,
            max_batch_size=probed.max_batch_size,
            memory=probed.memory,
            headroom=headroom,
            ceiling=max_batch_size,
            probe_limit=probed.limited_by,
            dataset_length=bench.source.length,
            world_size=world_size(),
            optimizer_family=bench.step.optimizer_family,
            can_accumulate=not bench.step.updates_itself,
            loader_overlaps=loader_overlaps(loader),
        )
        recommendation, confirmation = confirm_choice(
            call, choose, findings.training, base, learning_rate_rule
        )
        environment = bench.environment()
    lost = not_restored(call)
    return Report(
        recommendation=recommendation,
        probe=with_headroom(probed, recommendation),
        measurements=with_noise(measurements, findings),
        noise_scale=findings.training,
        confirmation=confirmation,
        state_restored=not lost,
        caveats=caveats_of(
            call,
            probed,
            base,
            measurements=measurements,
            findings=findings,
            recommendation=recommendation,
            confirmation=confirmation,
            lost=lost,
        ),
        environment=environment,
        base_batch_size=base.batch_size,
        base_learning_rate=base.learning_rate,
        unit=bench.source.unit,
        seconds=tuple(call.spent.items()),
    )
