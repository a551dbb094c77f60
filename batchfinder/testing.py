"""For the tests of your own model: "it trains at batch 64 in 8 GiB", checked without a GPU.

On a CPU the limit is simulated by counting live tensors, which is exact and the same on every
machine; what a GPU's kernels take inside themselves is not in it.
"""

from __future__ import annotations

from typing import Never

from batchfinder.arguments import check
from batchfinder.keywords import keywords_named, refuse_unknown
from batchfinder.results import Outcome, Trial
from batchfinder.run.bench import open_bench
from batchfinder.run.trial import run_undisturbed
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
from batchfinder.units import format_bytes, format_size

__all__ = ["assert_fits"]

_WAY_OUT = {
    False: "Lower batch_size (accumulation steps keep the global batch), allow more memory=, or "
    "reduce the memory of the model: activation checkpointing, lower precision (autocast=).",
    True: "Lower batch_size (accumulation steps keep the global batch): more memory would not "
    "help.",
}


@keywords_named
def assert_fits(
    model: Model | Training,
    loader: Loader | None = None,
    *,
    batch_size: int,
    memory: int | str,
    loss_fn: LossFunction | None = None,
    train_step: StepFunction | None = None,
    optimizer: Optimizer | None = None,
    scheduler: Scheduler | None = None,
    clip: Clip | None = None,
    autocast: Autocast | None = None,
    grad_scaler: GradScaler | None = None,
    steps: int = 2,
    **unknown: Never,
) -> Trial:
    """Assert that whole training steps at ``batch_size`` fit in ``memory``.

    What you train:
        As for ``find_batch_size``: ``model`` and ``loader`` (a batch of ``batch_size`` is built
        from it), or a ``Training``; ``loss_fn``, ``train_step``, ``optimizer`` (AdamW if left
        out), ``scheduler``, ``clip``, ``autocast``, ``grad_scaler``.

    Your limits:
        batch_size: the micro-batch.
        memory: bytes, or text such as ``"8GiB"``. On a CPU simulated, on a GPU a cap.

    How it runs:
        steps: number of whole steps, which are undone afterwards. Default: two, because the first
            allocates the optimizer state.

    Returns:
        The trial, whose ``peak_bytes`` is the memory needed.

    Raises:
        AssertionError: if it does not fit; the message has the bytes and the way out.
        InvalidArgument: if ``batch_size`` or ``steps`` is below 1.
    """
    refuse_unknown(assert_fits, unknown)
    check("assert_fits", batch_size=batch_size, steps=steps)
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
    with open_bench(training, memory_limit=memory) as bench:
        bench.training()
        trial = run_undisturbed(bench.setup, batch_size, steps=steps)
        limit = bench.memory.limit_bytes()
    if not trial.fits:
        raise AssertionError(_message(trial, limit))
    return trial


def _message(trial: Trial, limit: int) -> str:
    needed = ""
    if trial.peak_bytes is not None:
        needed = f"; it needs {format_bytes(trial.peak_bytes)} or more"
    found = f"it {trial.outcome.words}{needed}" + (f" ({trial.note})" if trial.note else "")
    size = format_size(trial.batch_size)
    return (
        f"expected batch size {size} to fit in {format_bytes(limit)}; found that {found}. "
        f"{_WAY_OUT[trial.outcome is Outcome.INDEX_LIMIT]}"
    )
