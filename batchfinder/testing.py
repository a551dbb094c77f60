"""For the tests of your own model: "it trains at batch 64 in 8 GiB", checked without a GPU.

On a CPU the limit is simulated by counting live tensors, which is exact and the same on every
machine; what a GPU's kernels take inside themselves is not in it.
"""

from __future__ import annotations

from typing import Any

from batchfinder.errors import InvalidArgument
from batchfinder.results import Outcome, Trial
from batchfinder.run.bench import Handed, open_bench
from batchfinder.run.trial import run_undisturbed
from batchfinder.units import format_bytes, format_size

__all__ = ["assert_fits"]

_WAY_OUT = {
    False: "Lower batch_size (accumulation steps keep the global batch), allow more memory=, or "
    "save some in the model: activation checkpointing, lower precision (autocast=).",
    True: "Lower batch_size (accumulation steps keep the global batch): more memory would not do.",
}


def assert_fits(
    model: Any,
    loader: Any,
    *,
    batch_size: int,
    memory: int | str,
    loss_fn: Any = None,
    train_step: Any = None,
    optimizer: Any = None,
    autocast: Any = None,
    grad_scaler: Any = None,
    make_loader: Any = None,
    preserve: Any = (),
    steps: int = 2,
) -> Trial:
    """Assert that whole training steps at ``batch_size`` fit in ``memory``; leave no trace.

    Args:
        model: as for ``find_batch_size``.
        loader: a batch of ``batch_size`` is built from it.
        batch_size: the micro-batch.
        memory: bytes, or text such as ``"8GiB"``. On a CPU simulated, on a GPU a cap.
        loss_fn: as for ``find_batch_size``.
        train_step: likewise.
        optimizer: likewise; AdamW if left out.
        autocast: likewise.
        grad_scaler: likewise.
        make_loader: likewise.
        preserve: likewise.
        steps: whole steps taken, then undone; two, because an optimizer's state is made in the
            first.

    Returns:
        The trial, whose ``peak_bytes`` says what was needed.

    Raises:
        AssertionError: where it does not fit, with the bytes and what to do.
        InvalidArgument: where ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise InvalidArgument(f"expected a batch size of at least 1; found {batch_size}")
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
        memory_limit=memory,
    )
    with open_bench(handed) as bench:
        bench.training()
        trial = run_undisturbed(bench.step, bench.source, bench.memory, batch_size, steps=steps)
        limit = bench.memory.limit_bytes()
    if not trial.fits:
        raise AssertionError(_message(trial, limit))
    return trial


def _message(trial: Trial, limit: int) -> str:
    needed = ""
    if trial.peak_bytes is not None:
        needed = f"; {format_bytes(trial.peak_bytes)} or more are needed"
    found = f"it {trial.outcome.value}{needed}" + (f" ({trial.note})" if trial.note else "")
    size = format_size(trial.batch_size)
    return (
        f"expected batch size {size} to fit in {format_bytes(limit)}; found that {found}. "
        f"{_WAY_OUT[trial.outcome is Outcome.INDEX_LIMIT]}"
    )
