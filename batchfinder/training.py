"""What the caller hands over, as values: the training, and how its largest batch is searched."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass, fields, replace
from numbers import Real
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from batchfinder.errors import InvalidArgument
from batchfinder.keywords import options_named
from batchfinder.model_checks import check_model, refuse_frameworks, refuse_inference
from batchfinder.probe import Propose, guided
from batchfinder.protocols import Batch, RankGroup

__all__ = [
    "Autocast",
    "Backward",
    "Clip",
    "Factory",
    "GradScaler",
    "Loader",
    "LossFunction",
    "Model",
    "Optimizer",
    "Scheduler",
    "Search",
    "StepFunction",
    "Training",
    "training_of",
]

Model: TypeAlias = nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module]
"""One module, or several with a ``train_step`` that gets them as they were passed."""

Loader: TypeAlias = DataLoader[Any] | Dataset[Any] | Iterable[Batch]
"""The loader of the training, a dataset, or any iterable of batches that can be read again."""

LossFunction: TypeAlias = Callable[[Any, Any], Tensor]
"""``(output, target) -> scalar loss``."""

StepFunction: TypeAlias = Callable[[Any, Batch], Tensor | float | tuple[Tensor, Any] | None]
"""``(model, batch) -> loss`` or ``(loss, weight)``; a float or ``None`` where it has updated."""

Optimizer: TypeAlias = (
    torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | Mapping[str, torch.optim.Optimizer]
)
"""One optimizer, or several."""

Scheduler: TypeAlias = Any
"""A learning-rate scheduler with ``state_dict``, or a list of them."""

Clip: TypeAlias = float | Callable[[list[nn.Parameter]], Any]
"""A maximal gradient norm, or a function that clips the gradients of the parameters it gets."""

Backward: TypeAlias = Callable[[Tensor], Any]
"""In place of ``loss.backward()``."""

GradScaler: TypeAlias = torch.amp.GradScaler
"""The scaler of a training in float16, or a subclass (``ShardedGradScaler``)."""

_BUILT = {
    "optimizer": "build it first, such as torch.optim.AdamW(model.parameters(), lr=1e-3)",
    "scheduler": "build it first, such as torch.optim.lr_scheduler.StepLR(optimizer, 30)",
    "grad_scaler": "build it first: torch.amp.GradScaler()",
}
"""What holds state that a call puts back, and how it is made."""

Autocast: TypeAlias = (
    bool | torch.dtype | AbstractContextManager[Any] | Callable[[], AbstractContextManager[Any]]
)
"""``True``, a dtype, a context manager that can be entered again, or a function that makes one."""


@options_named
@dataclass(frozen=True, eq=False)
class Training:
    """A training: the model, its data, and one optimizer step.

    Every function of the package accepts a ``Training`` instead of model and loader. Common members
    are keyword arguments of the functions too; the others are available only here.

    Attributes:
        model: the module to train, on its training device; or a list or dict of modules with
            ``train_step``.
        loader: the ``DataLoader`` of the training (never modified), a dataset, or a re-iterable of
            batches. Optional with ``make_loader``.
        loss_fn: ``(output, target) -> scalar``. Default: the model's own loss, otherwise inferred
            from an ``(input, target)`` batch.
        train_step: ``(model, batch) -> loss`` instead of ``loss_fn``; or ``(loss, weight)``, with
            the weight of the micro-batch in the mean over an accumulated step, such as its number
            of tokens. If it returns ``None`` or a float, it must run the backward pass and the
            update itself; there is then no noise scale.
        optimizer: the optimizer, or several in a list or dict. Default: AdamW is assumed.
        scheduler: the learning-rate scheduler, or several. Its state is restored; its peak is the
            base learning rate.
        clip: a maximum gradient norm, or ``(parameters) -> None``. Applied before every update, but
            not when the noise scale is measured.
        backward: ``(loss) -> None`` instead of ``loss.backward()``.
        autocast: mixed precision: a dtype, ``True``, or a function that returns a context.
        grad_scaler: the ``GradScaler``.
        make_loader: ``batch_size -> loader``, if the loader cannot be rebuilt at another size.
        count: ``batch -> int``, the number of samples in a batch, if it cannot be inferred.
        batch_dim: the dimension of the samples in a batch, if it is not the first.
        preserve: further objects to restore after the call.
        ranks: the processes that train, and search, together. Default: all ranks of the process
            group, if there is one; each must make the call. ``ALONE``: only this process, with the
            bare module. ``TorchRanks(...)``: if the model does not show how the ranks share the
            work.
    """

    model: Model
    loader: Loader | None = None
    _: KW_ONLY
    loss_fn: LossFunction | None = None
    train_step: StepFunction | None = None
    optimizer: Optimizer | None = None
    scheduler: Scheduler | None = None
    clip: Clip | None = None
    backward: Backward | None = None
    autocast: Autocast | None = None
    grad_scaler: GradScaler | None = None
    make_loader: Callable[[int], Iterable[Batch]] | None = None
    count: Callable[[Batch], int] | None = None
    batch_dim: int | None = None
    preserve: Sequence[Any] = ()
    ranks: RankGroup | None = None

    def modules(self) -> list[nn.Module]:
        """Every module that is part of it, the loss included."""
        candidates = [*as_list(self.model), self.loss_fn, self.train_step]
        return [module for module in candidates if isinstance(module, nn.Module)]

    def kept(self) -> list[Any]:
        """Everything whose state is put back after a call."""
        others = [
            *as_list(self.optimizer),
            *as_list(self.scheduler),
            self.grad_scaler,
            *self.preserve,
        ]
        return self.modules() + [thing for thing in others if thing is not None]

    def check(self) -> None:
        """Refuse what cannot be trained, before anything is touched.

        Raises:
            InvalidArgument: naming the argument and the way out.
        """
        refuse_frameworks(
            self.model,
            self.loader,
            as_list(self.optimizer),
            has_step=self.loss_fn is not None or self.train_step is not None,
            has_backward=self.backward is not None,
        )
        check_model(as_list(self.model) or [self.model])
        refuse_inference(self.modules())
        if self.loader is None and self.make_loader is None:
            raise InvalidArgument(
                "expected a loader with the model; found none: pass a DataLoader, a dataset, or "
                "Training(model, make_loader=lambda batch_size: ...)"
            )
        for name in ("loss_fn", "optimizer", "scheduler", "grad_scaler"):
            value = getattr(self, name)
            if isinstance(value, type):
                raise InvalidArgument(
                    f"expected {name} to be an object; found the class {value.__name__} itself: "
                    f"build one first, such as {value.__name__}(...)"
                )
        for name, way_out in _BUILT.items():
            for value in as_list(getattr(self, name)):
                if not hasattr(value, "state_dict") and not hasattr(value, "__dict__"):
                    raise InvalidArgument(
                        f"expected {name} to be an object with state; found {value!r}: {way_out}"
                    )
        for name in ("loss_fn", "train_step", "backward", "make_loader", "count"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise InvalidArgument(f"expected {name} to be a function; found {value!r}")
        if self.ranks is not None and not callable(getattr(self.ranks, "meet", None)):
            raise InvalidArgument(
                "expected ranks to be batchfinder.ALONE, TorchRanks(...) or another group with "
                f"meet(); found {self.ranks!r}: leave it out to search on every rank"
            )
        clip = self.clip
        is_norm = isinstance(clip, int | float) and not isinstance(clip, bool) and clip > 0
        if not (clip is None or callable(clip) or is_norm):
            raise InvalidArgument(
                "expected clip to be a maximum gradient norm above 0, or a function (parameters) "
                f"-> None that clips in place; found {clip!r}: leave it out for no "
                "clipping"
            )


Factory: TypeAlias = Callable[[], Training | Mapping[str, Any]]
"""Builds what is trained: a ``Training``, or its arguments by name."""


@options_named
@dataclass(frozen=True)
class Search:
    """Options for finding the largest batch that fits.

    Attributes:
        resolution: relative distance between the largest size that fits and the smallest that does
            not at which the search stops; 0 is exact.
        propose: function of the trials so far that returns the next size.
        isolate: function at the top level of an importable module that builds the training; every
            trial then runs in its own child process.
        cache: file for the largest sizes found; each is verified by one trial.

    Raises:
        InvalidArgument: an invalid value.
    """

    resolution: float = 0.02
    propose: Propose = guided
    isolate: Factory | None = None
    cache: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        given: Any = self.resolution
        if not (isinstance(given, Real) and 0 <= float(given) < 1):
            raise InvalidArgument(
                "expected resolution to be a fraction from 0 (exact) to below 1; found "
                f"{given!r}: write 0.02 for 2%"
            )
        propose: Any = self.propose
        if not callable(propose):
            raise InvalidArgument(
                "expected propose to be a function of the trials and the search space; found "
                f"{propose!r}: leave it out for the guided search"
            )


def training_of(model: Model | Training, loader: Loader | None = None, **members: Any) -> Training:
    """One ``Training`` from what a function was called with; ``None`` means left out.

    Raises:
        InvalidArgument: where a ``Training`` has a member already that was passed again, or what
            was passed cannot be trained.
    """
    given = {name: value for name, value in members.items() if value is not None}
    if not isinstance(model, Training):
        training = Training(model, loader, **given)
    else:
        if loader is not None:
            given["loader"] = loader
        for name in given:
            if getattr(model, name) is not None:
                raise InvalidArgument(
                    f"expected {name} once; found it in the Training and as an argument: leave "
                    "one out"
                )
        training = replace(model, **given)
    training.check()
    return training


def built_by(make: Factory) -> Training:
    """The ``Training`` that a factory returns, by itself or as arguments by name.

    Raises:
        InvalidArgument: where it returns something else.
    """
    made = make()
    if not isinstance(made, Training):
        known = {field.name for field in fields(Training)}
        unknown = sorted(set(made) - known) if isinstance(made, Mapping) else [type(made).__name__]
        if unknown:
            raise InvalidArgument(
                "expected the factory to return a Training, or a dict of its arguments; found "
                f"{', '.join(map(str, unknown))}"
            )
        made = Training(**made)
    made.check()
    return made


def as_list(thing: Any) -> list[Any]:
    """One object, or a list or dict of them, as a list; a module is one object."""
    if thing is None:
        return []
    if isinstance(thing, Mapping) and not isinstance(thing, nn.Module):
        return list(thing.values())
    if isinstance(thing, list | tuple):
        return list(thing)
    return [thing]
