"""The largest micro-batch that fits, alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Never

from batchfinder.arguments import check
from batchfinder.caveats import caveats_of
from batchfinder.keywords import keywords_named, refuse_unknown
from batchfinder.probe import SearchSpace
from batchfinder.probe.stage import probe_sizes
from batchfinder.protocols import Observer
from batchfinder.results import ProbeResult
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
    training_of,
)

__all__ = ["max_batch_size"]

_SEARCH = Search()


@keywords_named
def max_batch_size(
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
    memory_limit: int | str | None = None,
    at_most: int | None = None,
    at_least: int | None = None,
    multiple_of: int = 1,
    powers_of_two: bool = False,
    search: Search = _SEARCH,
    budget_seconds: float | None = None,
    seed: int = 0,
    observe: Observer | None = None,
    **unknown: Never,
) -> ProbeResult:
    """Find the largest micro-batch that trains without running out of memory.

    The ``max_batch_size`` of the result has run whole training steps; ``trials`` lists all trials,
    and ``memory`` breaks down the peak. Everything is restored afterwards.

    What you train:
        As for ``find_batch_size``: ``model`` and ``loader``, or a ``Training``; ``loss_fn``,
        ``train_step``, ``optimizer``, ``scheduler``, ``clip``, ``autocast``, ``grad_scaler``.

    Your limits:
        memory_limit: bytes, or text such as ``"512MiB"`` or ``"8GB"``. Simulated on a CPU. Default:
            the free memory of the device.
        at_most: upper bound on the micro-batch size, not exceeded in trials either.
        at_least: lower bound; no smaller size is tried.
        multiple_of: only multiples of this are tried.
        powers_of_two: only powers of two are tried.

    How it runs:
        search: options for finding the largest size (``Search``).
        budget_seconds: soft limit on the whole call; caveats report what was cut short.
        seed: seed of the samples drawn.
        observe: called with every event. Default: prints progress to stderr, on rank 0 only.

    Raises:
        InvalidArgument: if a value is invalid.
        NothingFits: if not even the smallest batch fits.
        CannotBuildBatch, UnknownLoss, NothingToTrain, DeviceMismatch: see each.
        RanksNotTogether, PeerFailed: if ranks diverge or another rank fails.
    """
    refuse_unknown(max_batch_size, unknown)
    check(
        "max_batch_size",
        memory_limit=memory_limit,
        at_most=at_most,
        at_least=at_least,
        multiple_of=multiple_of,
        budget_seconds=budget_seconds,
        search=search,
    )
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
        budget_seconds=budget_seconds,
        seed=seed,
        observe=observe,
        function="max_batch_size",
    ) as call:
        found = probe_sizes(call, search)
    lost = not_restored(call)
    return shared(call, replace(found, caveats=caveats_of(call, found.caveats, lost)))
