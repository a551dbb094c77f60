"""A loss that cannot compare an output with its target: what would make it work, tried out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from batchfinder.errors import InvalidArgument
from batchfinder.run.oom import Verdict, classify
from batchfinder.run.torch_internals import under_fake_tensors
from batchfinder.run.tree import describe

__all__ = ["refuse_mismatch"]

_KINDS = (RuntimeError, TypeError, ValueError, LookupError)
_Change = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def refuse_mismatch(loss_fn: Any, output: Any, target: Any, error: Exception) -> None:
    """Raise ``error`` with its way out, where another type or shape of the target has one.

    Each change is tried on copies before it is told. Where none helps, the error gets a note of
    what the loss was called with, and is the caller's to raise again.

    Raises:
        InvalidArgument: from ``error``, with the change that makes the loss work.
    """
    if not isinstance(error, _KINDS) or classify(error) is not Verdict.OTHER:
        return
    what = f"an output of {describe(output)} and a target of {describe(target)}"
    if isinstance(output, torch.Tensor) and isinstance(target, torch.Tensor):
        change = _first_that_works(loss_fn, output, target, error)
        if change is not None:
            name = type(loss_fn).__name__ if isinstance(loss_fn, torch.nn.Module) else "loss_fn"
            name = getattr(loss_fn, "__name__", name)
            raise InvalidArgument(
                f"expected an output and a target that {name} takes; found {what} ({_told(error)}):"
                f" pass loss_fn=lambda output, target: your_loss({change}), or let the data set "
                "give such targets"
            ) from error
        what += _range_of(target)
    error.add_note(f"batchfinder: the loss was called with {what}")


def _told(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"


def _first_that_works(
    loss_fn: Any, output: torch.Tensor, target: torch.Tensor, error: Exception
) -> str | None:
    if under_fake_tensors():  # whose values cannot be looked at
        return None
    with contextlib.suppress(Exception), torch.no_grad():  # on a lost device nothing can be copied
        copies = output.detach().cpu(), target.detach().cpu()
        if not _fails_alike(loss_fn, copies, error):
            return None  # a fault of its own that comes and goes, whatever it is called with
        for words, change in _changes(*copies):
            changed = change(*copies)
            if all(
                new.dtype == old.dtype and new.shape == old.shape
                for new, old in zip(changed, copies, strict=True)
            ):
                continue
            with contextlib.suppress(Exception):
                if _is_scalar(loss_fn(*changed)):
                    return words
    return None


def _fails_alike(loss_fn: Any, given: tuple[torch.Tensor, torch.Tensor], error: Exception) -> bool:
    try:
        loss_fn(*given)
    except Exception as again:  # noqa: BLE001  # compared with the first
        return type(again) is type(error)
    return False


def _is_scalar(loss: Any) -> bool:
    return isinstance(loss, torch.Tensor) and loss.numel() == 1 and bool(torch.isfinite(loss))


def _changes(output: torch.Tensor, target: torch.Tensor) -> Iterator[tuple[str, _Change]]:
    """Expressions for the arguments of the loss, and what they do: those that lose no value."""
    classes = output.ndim > 1 and output.shape[1] > 1
    if target.is_floating_point():
        if classes and bool((target == target.round()).all()):
            yield "output, target.long()", lambda o, t: (o, t.long())
            yield "output, target.flatten().long()", lambda o, t: (o, t.flatten().long())
        yield "output, target.to(output.dtype)", lambda o, t: (o, t.to(o.dtype))
    else:
        yield "output, target.long()", lambda o, t: (o, t.long())
        yield "output, target.float()", lambda o, t: (o, t.float())
    if target.ndim == 2 and target.shape[1] == 1 and classes:
        yield "output, target.squeeze(1).long()", lambda o, t: (o, t.squeeze(1).long())
    if target.shape == output.shape[:-1] and output.ndim > 2:
        yield (
            "output.flatten(0, -2), target.flatten().long()",
            lambda o, t: (o.flatten(0, -2), t.flatten().long()),
        )
    if target.numel() == output.numel() and target.shape != output.shape:
        yield (
            "output, target.view_as(output).to(output.dtype)",
            lambda o, t: (o, t.view_as(o).to(o.dtype)),
        )


def _range_of(target: torch.Tensor) -> str:
    """The values of whole-number targets, which may be no classes of the output."""
    if target.is_floating_point() or target.is_complex() or not target.numel():
        return ""
    if under_fake_tensors() or target.device.type != "cpu":
        return ""
    return f" from {int(target.min())} to {int(target.max())}"
