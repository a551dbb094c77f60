"""The gradient noise scale, alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Never

from batchfinder.arguments import check
from batchfinder.caveats import caveats_of
from batchfinder.errors import BatchFinderError
from batchfinder.keywords import keywords_named, refuse_unknown
from batchfinder.noise import MicroBatchVariance
from batchfinder.noise.stage import estimate_here
from batchfinder.probe import SearchSpace
from batchfinder.probe.runner import runs_at
from batchfinder.protocols import NoiseEstimator, Observer
from batchfinder.results import NoiseScale
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
    StepFunction,
    Training,
    training_of,
)

__all__ = ["gradient_noise_scale"]

_VARIANCE = MicroBatchVariance()
_NEEDS_ALL = (
    "batchfinder: a step at the loader's batch size, {own}, runs, but one with fewer samples "
    "does not: pass micro_batch={own}; every batch is then a multiple of it"
)


@keywords_named
def gradient_noise_scale(
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
    micro_batch: int | None = None,
    noise: NoiseEstimator = _VARIANCE,
    seed: int = 0,
    observe: Observer | None = None,
    **unknown: Never,
) -> NoiseScale:
    """Estimate the gradient noise scale tr(Σ)/|G|² at the current weights, with a 90% interval.

    The noise scale at initialization says almost nothing about a training run: call this function
    during a training, or use a warm-up, ``noise=MicroBatchVariance(warmup_steps=200)``, which runs
    at the batch size of the loader and the learning rate of the optimizer and is undone afterwards.
    Source: McCandlish et al. 2018, arXiv:1812.06162, appendix A.

    What you train:
        As for ``find_batch_size``: ``model`` and ``loader``, or a ``Training``; ``loss_fn``,
        ``train_step`` (it must return the loss), ``optimizer`` (for the warm-up), ``scheduler``,
        ``clip`` (in the warm-up), ``autocast``, ``grad_scaler``.

    How it runs:
        micro_batch: samples per backward pass; the step receives only multiples of it. Default: the
            batch size of the loader.
        noise: the estimator, with its ``samples`` and ``warmup_steps``.
        seed: seed of the samples drawn.
        observe: called with every event. Default: prints progress to stderr, on rank 0 only.

    Raises:
        InvalidArgument: if a value is invalid.
        BatchFinderError: if there is no noise scale (the step runs its own update, or the loss
            couples the samples of a batch); the message gives the reason.
    """
    refuse_unknown(gradient_noise_scale, unknown)
    check("gradient_noise_scale", micro_batch=micro_batch, noise=noise)
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
    space = SearchSpace(multiple_of=micro_batch or 1)
    with opened(
        training,
        space=space,
        seed=seed,
        observe=observe,
        function="gradient_noise_scale",
    ) as call:
        try:
            found = estimate_here(call, noise, micro_batch=micro_batch)
        except Exception as error:
            own = call.bench.source.base_batch_size
            is_ours = isinstance(error, BatchFinderError)
            if not is_ours and micro_batch is None and own and runs_at(call.bench, own, 0):
                error.add_note(_NEEDS_ALL.format(own=own))
            raise
    lost = not_restored(call)
    if found.training is None:
        raise BatchFinderError(" ".join(found.caveats))
    said = caveats_of(call, found.caveats, lost)
    return shared(call, replace(found.training, caveats=said))
