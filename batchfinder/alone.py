"""One stage alone: the probe, or the noise scale."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from batchfinder.arguments import check
from batchfinder.errors import BatchFinderError
from batchfinder.noise import MicroBatchVariance, warmup_estimator
from batchfinder.noise.stage import estimate_here
from batchfinder.probe import Propose, SearchSpace, guided
from batchfinder.probe.stage import Search, probe_sizes
from batchfinder.protocols import NoiseEstimator, Observer
from batchfinder.results import NoiseScale, ProbeResult
from batchfinder.run.bench import Handed
from batchfinder.run.isolate import Factory
from batchfinder.session import not_restored, opened

__all__ = ["gradient_noise_scale", "max_batch_size"]


def max_batch_size(
    model: Any,
    loader: Any,
    *,
    loss_fn: Any = None,
    train_step: Any = None,
    optimizer: Any = None,
    memory_limit: int | str | None = None,
    resolution: float = 0.02,
    max_batch_size: int | None = None,
    multiple_of: int = 1,
    powers_of_two: bool = False,
    autocast: Any = None,
    grad_scaler: Any = None,
    budget_seconds: float | None = None,
    seed: int = 0,
    observe: Observer | None = None,
    propose: Propose = guided,
    isolate: Factory | None = None,
    cache: str | os.PathLike[str] | None = None,
    make_loader: Any = None,
    preserve: Sequence[Any] = (),
) -> ProbeResult:
    """The largest micro-batch that fits: the probe alone. It was run, optimizer step included.

    The arguments are those of ``find_batch_size``; everything is put back afterwards.

    Raises:
        NothingFits: not even the smallest batch fits.
        InvalidArgument, CannotBuildBatch, UnknownLoss, NothingToTrain, DeviceMismatch: see each.
    """
    check(
        resolution=resolution,
        max_batch_size=max_batch_size,
        multiple_of=multiple_of,
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
        seed=seed,
    )
    space = SearchSpace(
        ceiling=max_batch_size,
        resolution=resolution,
        multiple_of=multiple_of,
        powers_of_two=powers_of_two,
    )
    with opened(handed, observe, budget_seconds) as call:
        found = probe_sizes(call, Search(space, propose, isolate, cache))
        assumed = call.bench.assumptions()
    not_restored(call)
    return replace(found, caveats=(*assumed, *found.caveats))


def gradient_noise_scale(
    model: Any,
    loader: Any,
    *,
    samples: int | None = None,
    warmup_steps: int = 0,
    loss_fn: Any = None,
    train_step: Any = None,
    optimizer: Any = None,
    micro_batch: int | None = None,
    estimator: NoiseEstimator | None = None,
    autocast: Any = None,
    grad_scaler: Any = None,
    seed: int = 0,
    observe: Observer | None = None,
    make_loader: Any = None,
    preserve: Sequence[Any] = (),
) -> NoiseScale:
    """The gradient noise scale tr(Σ)/|G|² at the weights as they are, with a 90% interval.

    Weights at initialisation say almost nothing about a training run: call it in the middle of
    one, or give ``warmup_steps``, which are taken at the loader's batch size and the optimizer's
    learning rate and then undone. Source: McCandlish et al. 2018, arXiv:1812.06162, appendix A.

    Args:
        model: the module that is trained.
        loader: the loader of the training.
        samples: how many samples the estimate may spend; left out, it stops when the interval is
            narrow enough.
        warmup_steps: optimizer steps before the estimate.
        loss_fn: as for ``find_batch_size``.
        train_step: as for ``find_batch_size``; it must return the loss.
        optimizer: used for the warm-up. Left out: AdamW.
        micro_batch: samples per backward pass; left out, the loader's batch size.
        estimator: the method; left out, ``MicroBatchVariance``.
        autocast: as for ``find_batch_size``.
        grad_scaler: as for ``find_batch_size``.
        seed: which samples are drawn.
        observe: gets every event.
        make_loader: as for ``find_batch_size``.
        preserve: as for ``find_batch_size``.

    Raises:
        BatchFinderError: where no noise scale exists (the step updates by itself, the loss couples
            the samples of a batch), saying why.
    """
    check(samples=samples, warmup_steps=warmup_steps, micro_batch=micro_batch)
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
        seed=seed,
    )
    method = warmup_estimator(estimator or MicroBatchVariance())
    if samples is not None:
        method = method.with_budget(samples)
    with opened(handed, observe) as call:
        found = estimate_here(call, method, warmup_steps=warmup_steps, micro_batch=micro_batch)
    not_restored(call)
    if found.training is None:
        raise BatchFinderError(" ".join(found.caveats))
    return found.training
