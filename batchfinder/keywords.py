"""Keywords that a function does not take: which of its own was meant.

A public function ends in ``**unknown: Never``, which a type checker takes for "no others", hides it
from its signature with ``keywords_named`` and refuses what came with ``refuse_unknown``. A wrapper
would stand between the caller and the user's step in every traceback.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from batchfinder.errors import UnknownArgument

__all__ = ["keywords_named", "options_named", "refuse_unknown"]

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type[Any])

_SAME = (
    "memory_limit memory limit max_memory vram gpu_memory ram mem device_memory",
    "at_most max_batch_size max_batch max_size ceiling max_val upper_bound maximum",
    "at_least min_batch_size min_batch min_size floor init_val starting_batch_size minimum",
    "base_learning_rate learning_rate lr base_lr initial_lr max_lr",
    "base_batch_size batch_size current_batch_size bs micro_batch",
    "sizes batch_sizes candidates",
    "loss_fn loss criterion loss_function loss_func",
    "train_step eval_step training_step step_fn step_function forward_fn",
    "make_training make_model model_fn build_model model_init",
    "optimizer make_optimizer optim opt optimizers optimizer_fn",
    "scheduler lr_scheduler schedulers schedule lr_schedule",
    "clip max_grad_norm clip_grad_norm grad_clip gradient_clip_val max_norm grad_norm",
    "autocast amp precision mixed_precision dtype fp16 bf16 use_amp",
    "grad_scaler make_grad_scaler scaler",
    "loader dataloader data_loader train_loader train_dataloader trainloader dataset data",
    "budget_seconds timeout time_limit budget max_seconds seconds max_time",
    "training_steps total_steps max_steps num_steps steps num_training_steps",
    "learning_rate_rule lr_rule scaling_rule rule lr_scaling",
    "objective goal optimize_for criterion_fn",
    "noise noise_estimator estimator",
    "observe observer verbose progress callback quiet silent logger",
    "multiple_of divisible_by multiple",
    "powers_of_two power_of_two pow2 power",
    "headroom margin safety_margin reserve safety_factor",
    "seed seeds random_seed random_state n_seeds num_seeds",
    "epochs num_epochs max_epochs n_epochs",
    "validation_loader val_loader valid_loader val_dataloader test_loader eval_loader",
    "results checkpoint resume resume_from save_to output",
    "executor pool engine n_jobs workers",
    "ranks process_group group",
    "device devices gpu gpus",
)
"""Names of one thing, ours and those of other libraries."""

_OF_TRAINING = ("backward", "batch_dim", "count", "make_loader", "preserve", "ranks", "train_step")
_OF_SEARCH = ("cache", "isolate", "propose", "resolution")
_OF_STOPPING = ("early_stopping", "patience", "target_loss")
_OF_MADE = (*_OF_TRAINING, "autocast", "clip", "grad_scaler", "optimizer")

_INSIDE = (
    (_OF_SEARCH, "search", "pass search=Search({}=...)"),
    (_OF_STOPPING, "stopping", "pass stopping=Stopping({}=...)"),
    (_OF_TRAINING, "model", "pass Training(model, loader, {}=...) in place of model and loader"),
    (_OF_MADE, "make_training", "let make_training return Training(model, {}=...)"),
)
"""Members of the values that a function takes: their names, its argument, the way out."""


def keywords_named(function: F) -> F:
    """Hide ``**unknown`` from the function's signature, as help and documentation show it."""
    whole = inspect.signature(function)
    shown = [each for each in whole.parameters.values() if each.kind is not each.VAR_KEYWORD]
    function.__dict__["__signature__"] = whole.replace(parameters=shown)
    return function


def options_named(given: C) -> C:
    """A class whose constructor refuses unknown keywords in the same words."""
    build = given.__init__
    known = list(inspect.signature(build).parameters)[1:]

    @functools.wraps(build)
    def checked(self: Any, *positional: Any, **named: Any) -> None:
        unknown = {name: value for name, value in named.items() if name not in known}
        if unknown:
            raise _refusal(given.__name__, known, unknown)
        build(self, *positional, **named)

    given.__init__ = checked
    return given


def refuse_unknown(function: Callable[..., Any], unknown: Mapping[str, object]) -> None:
    """Refuse keywords that the function does not take.

    Raises:
        UnknownArgument: naming those that were meant, where that can be told.
    """
    if unknown:
        known = inspect.signature(function).parameters
        raise _refusal(function.__name__, known, unknown)


def _refusal(name: str, known: Iterable[str], unknown: Mapping[str, object]) -> UnknownArgument:
    found = ", ".join(f"{each}=" for each in unknown)
    return UnknownArgument(
        f"{name}: expected known arguments; found {found}: "
        + "; ".join(_way_out(each, list(known)) for each in unknown)
    )


def _way_out(name: str, known: list[str]) -> str:
    same = [each for group in _SAME if name in (all_ := group.split()) for each in all_]
    meant = [each for each in same if each in known] or get_close_matches(name, known, 1, 0.75)
    if meant:
        return f"did you mean {meant[0]}=?"
    for each in (name, *same):
        for members, taken_as, way_out in _INSIDE:
            if each in members and taken_as in known:
                return way_out.format(each)
    if name in ("device", "gpu") and "model" in known:
        return "the model's device is used: call model.to(device) first"
    return f"it takes {', '.join(known)}"
