"""Sentences about the training step: its optimizer, its rates, its precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["SENTENCES"]

_NO_RATE = "no learning rate is recommended or confirmed"


def _peak(now: float, peak: float) -> str:
    return (
        f"the optimizer's learning rate is now {now:.3g}, under a schedule: its peak, {peak:.3g}, "
        "was used as the base rate"
    )


def _assumed_optimizer(names: tuple[str, ...], rate: float | None) -> str:
    was = "were" if len(names) > 1 else "was"
    at = "" if rate is None else f" at learning rate {rate:g}"
    return f"no optimizer was given: {' and '.join(names)} {was} assumed{at}, for its memory"


def _left(names: tuple[str, ...]) -> str:
    listed = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return (
        f"train_step also changes {listed}, which hold no tensors and were not restored. "
        "Training(..., preserve=[...]) restores an object with its counters"
    )


_LOSSES = {
    "cross_entropy": "cross-entropy",
    "cross_entropy_last": "cross-entropy over the last dimension",
    "mean_squared_error": "mean squared error",
}


def _assumed_loss(loss: str, shape: tuple[int, ...] = (), may_be_labels: bool = False) -> str:
    said = _LOSSES[loss]
    if shape:
        said += f" (with shape {tuple(shape)} it could also be the second)"
    if may_be_labels:
        said += " (all targets are 0 or 1: if they are labels, pass loss_fn=BCEWithLogitsLoss())"
    return f"no loss was given: {said} was assumed"


SENTENCES: Mapping[str, str | Callable[..., str]] = {
    "step.assumed_optimizer": _assumed_optimizer,
    "step.assumed_loss": _assumed_loss,
    "step.sum_of_scalars": (
        "the model returned several scalars ({names}); their sum was used as the loss"
    ),
    "step.only_scalar": (
        "the only scalar that the model returned with its output was used as the loss"
    ),
    "step.evaluation_mode": "the model was passed in evaluation mode",
    "step.no_scaler": (
        "float16 autocast ran without a gradient scaler, so small gradients may have become zero: "
        "pass grad_scaler= as in the real training"
    ),
    "step.peak": _peak,
    "step.own_update": (
        "the step runs its own backward pass and update, so accumulation cannot be measured"
    ),
    "step.left": _left,
    "step.recompile_limit": (
        "the compiled model reached torch's recompile limit: larger or later sizes ran uncompiled, "
        "so their times are not comparable. Compile with dynamic=None or dynamic=True"
    ),
    "step.graphs_stay": (
        "the graphs compiled for the sizes that were tried remain in torch's cache and count "
        "toward its recompile limit; torch._dynamo.reset() clears them"
    ),
    "step.counted_uncompiled": (
        "parts of the training are compiled: times are those of the compiled code, but memory was "
        "counted on the uncompiled code, since compiled graphs cannot be inspected. Compiled code "
        "usually needs less"
    ),
    "step.optimizer_unseen": (
        "train_step updates with an optimizer that was not passed, so its learning rate could be "
        f"neither read nor set: {_NO_RATE}. Pass it as optimizer="
    ),
    "step.optimizer_unused": (
        "the {name} that was passed took no step, although the parameters changed: train_step "
        f"updates with another optimizer, so {_NO_RATE}. Pass the one that it uses as optimizer="
    ),
    "step.rate_overwritten": (
        "the learning rate was overwritten inside the step, for example by a schedule, so "
        f"{_NO_RATE}. Leave the schedule out of train_step, and pass it as scheduler="
    ),
    "step.no_rate": f"{{name}} has no learning rate that could be set (lr=None): {_NO_RATE}",
}
