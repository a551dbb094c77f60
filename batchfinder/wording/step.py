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
    return f"No optimizer was given: {' and '.join(names)} {was} assumed{at}, for its memory."


def _left(names: tuple[str, ...]) -> str:
    listed = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return (
        f"train_step also changes {listed}, which hold no tensors: they stay as it left them. "
        "Training(..., preserve=[...]) puts an object back with its counters"
    )


SENTENCES: Mapping[str, str | Callable[..., str]] = {
    "step.peak": _peak,
    "step.own_update": (
        "The step does its own backward and update: accumulation cannot be measured."
    ),
    "step.left": _left,
    "step.assumed_optimizer": _assumed_optimizer,
    "step.recompile_limit": (
        "The compiled model met torch's recompile limit: larger or later sizes ran uncompiled, and "
        "their times are those of another program. Compile with dynamic=None or dynamic=True."
    ),
    "step.graphs_stay": (
        "The graphs compiled for the sizes that were tried stay in torch's cache and count towards "
        "its recompile limit; torch._dynamo.reset() clears them."
    ),
    "step.counted_uncompiled": (
        "Parts of the training are compiled: memory was counted with them run uncompiled, since "
        "their graphs cannot be seen into, and compiled they usually take less; they were timed "
        "as compiled."
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
