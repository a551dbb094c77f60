"""Transformers' ``Trainer`` and subclasses (TRL's ``SFTTrainer``), searched inside ``train()``.

    from batchfinder.integrations.transformers import find_batch_size

    report = find_batch_size(trainer, apply=True)
    trainer.train()

Autocast, activation checkpointing, LoRA and the optimizer come into being inside ``train()``, so
the search begins there, where the first step would, and leaves it again before that step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch

from batchfinder.errors import InvalidArgument, MissingDependency
from batchfinder.find import find_batch_size as search
from batchfinder.integrations.shared import (
    Applied,
    check_options,
    kept_attributes,
    with_framework,
    with_members,
)
from batchfinder.max_batch import max_batch_size as probe
from batchfinder.report import Report
from batchfinder.results import ProbeResult
from batchfinder.run.state import preserved
from batchfinder.training import Training
from batchfinder.wording import Caveat

try:
    from accelerate.state import GradientState
    from transformers import Trainer, TrainerCallback

    from batchfinder.integrations.accelerate_loaders import own_loader, refuse_accelerator
    from batchfinder.integrations.transformers_monitor import MonitorCallback
except ImportError as error:
    raise MissingDependency(
        "batchfinder.integrations.transformers needs transformers and accelerate: "
        'pip install "transformers[torch]"'
    ) from error

__all__ = ["MonitorCallback", "apply", "find_batch_size", "max_batch_size", "training_arguments"]

T = TypeVar("T")

_COUNTED = ("max_steps", "warmup_steps", "logging_steps", "eval_steps", "save_steps")


def find_batch_size(trainer: Trainer, *, apply: bool = False, **options: Any) -> Report:
    """``batchfinder.find_batch_size`` on a ``Trainer``, before ``train()`` is called.

    The trainer, its model and the random generators are restored; everything that ``train()`` sets
    up (checkpointing, hooks, an optimizer) is undone.

    Args:
        trainer: a ``transformers.Trainer`` or a subclass, ready for ``train()``.
        apply: whether to set the result on the trainer, as the function ``apply`` does.
        **options: other keyword arguments of ``batchfinder.find_batch_size``; ``count``,
            ``batch_dim``, ``preserve`` and ``ranks`` of ``Training`` too.

    Raises:
        InvalidArgument: for DeepSpeed, FSDP, trainers whose batches are
            rollouts, and options that the trainer answers.
    """
    check_options(options, "Trainer")
    arguments = trainer.args
    per_step = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    options.setdefault("base_batch_size", per_step)
    report = _inside_train(trainer, lambda made: search(with_members(made, options), **options))
    counted = [name for name in _COUNTED if (getattr(arguments, name, 0) or 0) >= 1]
    precision = str(trainer.accelerator.mixed_precision)
    report = with_framework(
        report, "transformers", "accelerate", counted=counted, precision=precision
    )
    if arguments.auto_find_batch_size:
        caveats = (*report.caveats, Caveat("integrations.shrinks"))
        report = replace(report, caveats=caveats)
    if apply:
        _apply(report, trainer)
    return report


def max_batch_size(trainer: Trainer, **options: Any) -> ProbeResult:
    """The largest per-device batch that fits; what ``auto_find_batch_size`` looks for.

    Args:
        trainer: as for ``find_batch_size``.
        **options: other keyword arguments of ``batchfinder.max_batch_size``, and as there.

    Raises:
        InvalidArgument: as ``find_batch_size``.
    """
    check_options(options, "Trainer")
    return _inside_train(trainer, lambda made: probe(with_members(made, options), **options))


def training_arguments(report: Report) -> dict[str, Any]:
    """The recommended values as arguments of ``TrainingArguments``."""
    found: dict[str, Any] = {
        "per_device_train_batch_size": report.batch_size,
        "gradient_accumulation_steps": report.accumulation_steps,
    }
    if report.learning_rate is not None:
        found["learning_rate"] = report.learning_rate
    return found


def apply(report: Report, trainer: Trainer) -> tuple[Applied, ...]:
    """Set batch size, accumulation steps and learning rate for the next ``train()``.

    The learning rate is ``args.learning_rate`` times the report's factor. An optimizer that exists
    already has every group's rate multiplied by the same factor.
    """
    arguments, applied = trainer.args, []
    wanted = training_arguments(report)
    factor = report.rate_factor
    if factor is not None:
        wanted["learning_rate"] = arguments.learning_rate * factor
    for name, new in wanted.items():
        applied.append(Applied(f"args.{name}", getattr(arguments, name), new))
        setattr(arguments, name, new)
    trainer._train_batch_size = arguments.train_batch_size
    optimizer = trainer.optimizer
    if optimizer is not None and factor is not None:
        for number, group in enumerate(optimizer.param_groups):
            initial = group.get("initial_lr", group["lr"])  # after a decay, "lr" may be 0
            applied.append(Applied(f"optimizer group {number}", initial, initial * factor))
        report.apply_rate(optimizer, trainer.lr_scheduler)
    return tuple(applied)


_apply = apply


class _Found(BaseException):
    """Leaves ``train()``: no ``except Exception`` on the way may catch it."""


class _Search(TrainerCallback):  # type: ignore[misc]  # transformers ships no complete types
    """Runs before every other callback, so that none of them starts a run of its own."""

    def __init__(self, trainer: Trainer, work: Callable[[Training], Any]) -> None:
        self.trainer = trainer
        self.work = work
        self.found: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        del args, state, control
        self.found = self.work(_training(self.trainer, kwargs["train_dataloader"]))
        raise _Found


def _inside_train(trainer: Trainer, work: Callable[[Training], T]) -> T:
    _refuse(trainer)
    callback = _Search(trainer, work)
    handler, accelerator, arguments = trainer.callback_handler, trainer.accelerator, trainer.args
    model = trainer.model
    objects = [] if model is None else [model]
    state = GradientState()
    references = list(state.dataloader_references)
    with (
        preserved(*objects),
        kept_attributes(trainer, handler, accelerator, arguments),
        _kept_counters(trainer),
    ):
        arguments.auto_find_batch_size = False
        handler.callbacks.insert(0, callback)
        try:
            trainer.train()
        except _Found:
            pass
        finally:
            state.dataloader_references = references
    found: T = callback.found
    return found


def _training(trainer: Trainer, loader: Any) -> Training:
    trainer.current_gradient_accumulation_steps = 1
    model = trainer.model_wrapped
    model.train()  # as the trainer does before its first step
    optimizer = trainer.optimizer
    return Training(
        model,
        own_loader(loader),
        train_step=_step_of(trainer),
        optimizer=getattr(optimizer, "optimizer", optimizer),
        scheduler=getattr(trainer.lr_scheduler, "scheduler", trainer.lr_scheduler),
        clip=trainer.args.max_grad_norm or None,
        grad_scaler=trainer.accelerator.scaler,
    )


def _step_of(trainer: Trainer) -> Callable[[Any, Any], Any]:
    """``training_step`` of the trainer itself, which hands over its loss where it would go back.

    Losses normalized by the tokens of an accumulation group come back with their tokens as weight.
    """
    accelerator = trainer.accelerator

    def step(model: Any, batch: Any) -> Any:
        losses: list[torch.Tensor] = []

        def keep(loss: torch.Tensor, **_: Any) -> None:
            losses.append(loss)

        inputs = dict(batch) if hasattr(batch, "keys") else batch  # a step may pop from it
        _, items = trainer.get_batch_samples(iter([inputs]), 1, accelerator.device)
        accelerator.backward = keep
        try:
            trainer.training_step(model, inputs, items)
        finally:
            del accelerator.backward
        if len(losses) != 1:
            raise InvalidArgument(
                f"expected one backward pass in training_step; found {len(losses)}: "
                "call batchfinder.find_batch_size with a train_step of your own"
            )
        return losses[0] if items is None else (losses[0], items)

    return step


def _refuse(trainer: Trainer) -> None:
    arguments = trainer.args
    refuse_accelerator(trainer.accelerator)
    if arguments.n_gpu > 1:
        raise InvalidArgument(
            f"expected one GPU; found {arguments.n_gpu}, over which DataParallel spreads every "
            "batch: set CUDA_VISIBLE_DEVICES to one of them"
        )
    for name in ("is_deepspeed_enabled", "is_fsdp_enabled"):
        if getattr(trainer, name, False):
            raise InvalidArgument(
                f"expected a trainer without DeepSpeed and FSDP; found {name}: search with one "
                "device and without it, then leave headroom"
            )
    owner = next(kind for kind in type(trainer).__mro__ if "_prepare_inputs" in vars(kind))
    if owner is not Trainer:
        raise InvalidArgument(
            f"expected a step that trains on the loader's batches; found that {owner.__name__} "
            "builds its own batches from them (rollouts, generation): "
            "call batchfinder.find_batch_size with a train_step over ready-made batches"
        )


@contextmanager
def _kept_counters(trainer: Trainer) -> Iterator[None]:
    """Counters that steps write into (``_metrics``, for one) hold afterwards what they held."""
    kept = {
        name: copy.deepcopy(value)
        for name, value in vars(trainer).items()
        if name.startswith("_") and isinstance(value, dict | list | set)
    }
    try:
        yield
    finally:
        for name, value in kept.items():
            current = vars(trainer).get(name)
            if isinstance(current, list):
                current[:] = value
            elif isinstance(current, dict | set):
                current.clear()
                current.update(value)
