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
    """The gradient noise scale tr(Σ)/|G|² at the weights as they are, with a 90% interval.

    Weights at initialisation say almost nothing about a training run: call it in the middle of
    one, or take a warm-up, ``noise=MicroBatchVariance(warmup_steps=200)``, which runs at the
    loader's batch size and the optimizer's learning rate and is then undone.
    Source: McCandlish et al. 2018, arXiv:1812.06162, appendix A.

    What you train:
        As for ``find_batch_size``: ``model`` and ``loader``, or a ``Training``; ``loss_fn``,
        ``train_step`` (it must return the loss), ``optimizer`` (for the warm-up), ``scheduler``,
        ``clip`` (in the warm-up), ``autocast``, ``grad_scaler``.

    How it runs:
        micro_batch: samples per backward pass; no batch that is not a multiple of it reaches the
            step. Left out: the loader's batch size.
        noise: how it is estimated, with its ``samples`` and ``warmup_steps``.
        seed: which samples are drawn.
        observe: gets every event. Left out: rows on stderr, by rank 0 alone.

    Raises:
        InvalidArgument: an invalid value.
        BatchFinderError: where no noise scale exists (the step updates by itself, the loss couples
            the samples of a batch), saying why.
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
