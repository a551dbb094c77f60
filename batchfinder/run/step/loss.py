"""The loss of a batch, and targets that it refuses."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.nn import functional

from batchfinder.errors import InvalidArgument, UnknownLoss
from batchfinder.run.oom import Verdict, classify
from batchfinder.run.torch_internals.tensors import under_fake_tensors
from batchfinder.run.tree import describe, leaves
from batchfinder.wording import Caveat

__all__ = ["LossInference", "own_loss", "refuse_mismatch", "require_scalar"]


_WAY_OUT = "pass loss_fn=(output, target -> scalar) or train_step=(model, batch -> scalar)"


def own_loss(output: Any) -> tuple[torch.Tensor, Caveat | None] | None:
    """The loss that a model returned itself, and what to say of it; ``None`` where there is none.

    A scalar, ``.loss``, ``["loss"]``, the only scalar of a tuple, or a mapping of nothing but
    scalars, which are added.
    """
    if isinstance(output, torch.Tensor):
        return (output, None) if _is_scalar(output) else None
    named = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(named, torch.Tensor) and _is_scalar(named):
        return named, None
    if isinstance(output, Mapping):
        return _sum_of(output)
    if isinstance(output, (tuple, list)):
        scalars = [part for part in output if _is_scalar(part)]
        return (scalars[0], None) if len(scalars) == 1 else None
    return None


def _is_scalar(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() == 1 and value.is_floating_point()


def _sum_of(output: Mapping[str, Any]) -> tuple[torch.Tensor, Caveat] | None:
    values = list(output.values())
    if not values or not all(_is_scalar(value) for value in values):
        return None
    names = ", ".join(map(str, output))
    total = torch.stack([value.reshape(()) for value in values]).sum()
    return total, Caveat("step.sum_of_scalars", names=names)


def require_scalar(loss: Any, where: str) -> torch.Tensor:
    """``loss`` as a 0-dimensional tensor.

    Raises:
        UnknownLoss: where it is something else.
    """
    if isinstance(loss, torch.Tensor) and loss.numel() == 1 and not loss.is_complex():
        return loss.reshape(())
    raise UnknownLoss(
        f"expected {where} to give a scalar; found {describe(loss)}: "
        "reduce it with .mean(), or " + _WAY_OUT
    )


class LossInference:
    """Cross-entropy or mean squared error, chosen once from the first output and target."""

    def __init__(self) -> None:
        self._chosen: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
        self.assumption: Caveat | None = None

    def __call__(self, output: Any, target: Any) -> torch.Tensor:
        logits = _prediction(output)
        if self._chosen is None:
            self._chosen, self.assumption = _choose(logits, target)
        assert logits is not None
        return self._chosen(logits, target)


def _prediction(output: Any) -> torch.Tensor | None:
    """The tensor that a target is compared with."""
    if isinstance(output, torch.Tensor):
        return output
    for name in ("logits", "prediction", "sample"):
        part = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(part, torch.Tensor):
            return part
    tensors = [leaf for _, leaf in leaves(output) if isinstance(leaf, torch.Tensor)]
    return tensors[0] if len(tensors) == 1 else None


def _choose(
    output: torch.Tensor | None, target: Any
) -> tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], Caveat]:
    if output is None or not isinstance(target, torch.Tensor):
        raise _unknown(output, target)
    if target.is_floating_point():
        if output.shape == target.shape:
            labels = bool(((target == 0) | (target == 1)).all())
            return functional.mse_loss, _assumed("mean_squared_error", may_be_labels=labels)
        if output.numel() == target.numel():
            return _flat_error, _assumed("mean_squared_error")
        raise _unknown(output, target)
    whole = not target.is_complex() and target.dtype is not torch.bool
    last = whole and output.ndim >= 3 and target.shape == output.shape[:-1]
    if last and target.shape == output.shape[:1] + output.shape[2:]:
        return _last_class_error, _assumed("cross_entropy_last", shape=tuple(output.shape))
    if whole and output.ndim >= 2 and target.shape == output.shape[:1] + output.shape[2:]:
        return _class_error, _assumed("cross_entropy")
    if last:
        return _last_class_error, _assumed("cross_entropy_last")
    raise _unknown(output, target)


def _assumed(loss: str, **more: Any) -> Caveat:
    return Caveat("step.assumed_loss", loss=loss, **more)


def _flat_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    # Shapes (B, 1) and (B,) would broadcast to (B, B) in silence.
    return functional.mse_loss(output.reshape(target.shape), target)


def _class_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    _check_classes(target, output.shape[1])
    return functional.cross_entropy(output, target.long())


def _last_class_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    _check_classes(target, output.shape[-1])
    return functional.cross_entropy(output.flatten(0, -2), target.long().flatten())


def _check_classes(target: torch.Tensor, classes: int) -> None:
    """Out of range, a GPU would stop with an assertion that no later call can leave.

    So every batch is looked at. Of a single class the loss is 0 whatever the weights.
    """
    if classes < 2:
        raise UnknownLoss(
            "expected an output of at least 2 classes for whole-number targets; found 1 (for "
            f"labels of 0 and 1: BCEWithLogitsLoss on floating targets): {_WAY_OUT}"
        )
    if under_fake_tensors():
        return
    known = target[target != -100]
    if known.numel() and (int(known.max()) >= classes or int(known.min()) < 0):
        raise UnknownLoss(
            f"expected class targets from 0 to {classes - 1} for an output of {classes} classes; "
            f"found {int(known.min())} to {int(known.max())}: {_WAY_OUT}"
        )


def _unknown(output: Any, target: Any) -> UnknownLoss:
    return UnknownLoss(
        "could not infer a loss from this output and target (whole-number classes, or floating "
        f"values of one shape); found {describe(output)} and {describe(target)}: {_WAY_OUT}"
        f"{_if_classes(output, target)}"
    )


def _if_classes(output: Any, target: Any) -> str:
    """What to do with floating targets that have the shape of classes."""
    if not isinstance(output, torch.Tensor) or not isinstance(target, torch.Tensor):
        return ""
    is_class_shaped = output.ndim > 1 and target.shape == output.shape[:1] + output.shape[2:]
    if not (target.is_floating_point() and is_class_shaped):
        return ""
    return ". If the targets are classes, let the dataset return them as int64"


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
                f" pass loss_fn=lambda output, target: your_loss({change}), or let the dataset "
                "return such targets"
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
                loss = loss_fn(*changed)
                if isinstance(loss, torch.Tensor) and loss.numel() == 1 and torch.isfinite(loss):
                    return words
    return None


def _fails_alike(loss_fn: Any, given: tuple[torch.Tensor, torch.Tensor], error: Exception) -> bool:
    try:
        loss_fn(*given)
    except Exception as again:  # noqa: BLE001  # compared with the first
        return type(again) is type(error)
    return False


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
