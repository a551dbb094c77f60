"""What is said of the training step: its optimizer, its rates, its precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["SENTENCES"]

_NO_RATE = "no learning rate is recommended or confirmed"


def _peak(now: float, peak: float) -> str:
    return (
        f"the optimizer's learning rate is {now:.3g} now, under a schedule: {peak:.3g}, its peak, "
        "was taken as the base rate"
    )


def _assumed_optimizer(names: tuple[str, ...], rate: float | None) -> str:
    was = "were" if len(names) > 1 else "was"
    at = "" if rate is None else f" at learning rate {rate:g}"
    return f"no optimizer was given: {' and '.join(names)} {was} assumed{at}, for its memory"


def _left(names: tuple[str, ...]) -> str:
    listed = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return (
        f"train_step also changes {listed}, which hold no tensors: they stay as it left them. "
        "Training(..., preserve=[...]) puts an object back with its counters"
    )


_LOSSES = {
    "cross_entropy": "cross-entropy",
    "cross_entropy_last": "cross-entropy over the last dimension",
    "mean_squared_error": "mean squared error",
}


def _assumed_loss(loss: str, shape: tuple[int, ...] = (), may_be_labels: bool = False) -> str:
    said = _LOSSES[loss]
    if shape:
        said += f" (of the shape {tuple(shape)} the second would do as well)"
    if may_be_labels:
        said += " (all targets are 0 or 1: where they are labels, pass loss_fn=BCEWithLogitsLoss())"
    return f"no loss was given: {said} was assumed"


SENTENCES: Mapping[str, str | Callable[..., str]] = {
    "step.assumed_optimizer": _assumed_optimizer,
    "step.assumed_loss": _assumed_loss,
    "step.sum_of_scalars": (
        "the model returned several scalars ({names}); their sum was taken as the loss"
    ),
    "step.only_scalar": (
        "the only scalar that the model returned beside its output was taken as the whole loss"
    ),
    "step.evaluation_mode": "the model was passed in evaluation mode",
    "step.no_scaler": (
        "float16 autocast ran without a gradient scaler: small gradients may have become zero; "
        "pass grad_scaler= as in the real training"
    ),
    "step.peak": _peak,
    "step.own_update": (
        "the step does its own backward and update: accumulation cannot be measured"
    ),
    "step.left": _left,
    "step.recompile_limit": (
        "the compiled model met torch's recompile limit: larger or later sizes ran uncompiled, and "
        "their times are those of another program. Compile with dynamic=None or dynamic=True"
    ),
    "step.graphs_stay": (
        "the graphs compiled for the sizes that were tried stay in torch's cache and count towards "
        "its recompile limit; torch._dynamo.reset() clears them"
    ),
    "step.counted_uncompiled": (
        "parts of the training are compiled: memory was counted on the uncompiled code, since "
        "compiled graphs cannot be inspected, and compiled code usually needs less; times are "
        "those of the compiled code"
    ),
    "step.optimizer_unseen": (
        "train_step updates with an optimizer that was not passed, so its learning rate could be "
        f"neither read nor set: {_NO_RATE}. Pass it as optimizer="
    ),
    "step.optimizer_unused": (
        "the {name} that was passed did not step, though the parameters moved: train_step updates "
        f"with another optimizer, so {_NO_RATE}. Pass the one that it uses as optimizer="
    ),
    "step.rate_overwritten": (
        "a learning rate that was set did not stay: something inside the step, such as a "
        f"schedule, writes its own. So {_NO_RATE}; leave the schedule out of train_step, and pass "
        "it as scheduler="
    ),
    "step.no_rate": (f"{{name}} keeps no learning rate that could be set (lr=None): {_NO_RATE}"),
}
