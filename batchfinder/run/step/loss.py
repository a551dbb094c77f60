"""The loss: given, the model's own, or inferred from an (input, target) batch and said so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from batchfinder.errors import UnknownLoss
from batchfinder.run.torch_internals import under_fake_tensors
from batchfinder.run.tree import describe, leaves
from batchfinder.wording import Caveat

__all__ = ["LossInference", "own_loss", "require_scalar"]

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
    return ". Where the targets are classes, let the data set give them as int64"
