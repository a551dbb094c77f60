"""Inside Lightning's ``fit``: the training as it is there, and an early way out.

Private names of Lightning, each in one function: ``_TunerExitException`` (``_exit_of``),
``fit_loop._data_source`` (``_loaders_of``), ``_data_connector._prepare_dataloader`` (``_of_rank``),
``_on_before_batch_transfer`` (``_moved``).
"""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, TypeVar

import torch

from batchfinder.errors import InvalidArgument
from batchfinder.integrations.lightning_apply import holders_of, set_on, value_on
from batchfinder.integrations.shared import kept_attributes, refuse_strategy
from batchfinder.run.state import preserved
from batchfinder.training import Training

__all__ = ["callbacks", "inside_fit", "refuse", "training_inside_fit"]

T = TypeVar("T")


def refuse(trainer: Any) -> None:
    """Refuse what a search says nothing about.

    Raises:
        InvalidArgument: for sharded strategies, ``overfit_batches`` and ``fast_dev_run``.
    """
    refuse_strategy(trainer.strategy, "Trainer")
    for name in ("overfit_batches", "fast_dev_run"):
        if getattr(trainer, name):
            raise InvalidArgument(
                f"expected the whole training set; found {name}: leave it out of the search"
            )


def inside_fit(
    trainer: Any,
    model: Any,
    loaders: Any,
    datamodule: Any,
    work: Callable[[Any, Any], T],
) -> T:
    """Begin ``fit``, do ``work(trainer, model)`` where the first step would be, and leave.

    Module, random numbers, callbacks and logger are afterwards what they were, after an error too.

    Raises:
        InvalidArgument: where ``fit`` runs in other processes, which keep what they find.
    """
    if type(trainer.strategy.launcher).__name__ == "_MultiProcessingLauncher":
        raise InvalidArgument(
            "expected fit to run in this process; found a strategy that starts other processes "
            "(ddp_spawn, ddp_fork, ddp_notebook), where the report would be lost: use "
            "Trainer(strategy='ddp') or torchrun, or the callback BatchFinder"
        )
    found: list[T] = []
    interrupted: list[KeyboardInterrupt] = []
    leave = _exit_of(trainer)

    def on_fit_start(inner: Any, module: Any) -> None:
        refuse(inner)
        try:
            found.append(work(inner, module))
        except KeyboardInterrupt as error:  # Lightning would end the process
            interrupted.append(error)
        raise leave

    callback = importlib.import_module(_package(trainer)).Callback()
    callback.on_fit_start = on_fit_start
    callbacks, logger = trainer.callbacks, trainer.loggers
    with preserved(model):
        trainer.callbacks = [callback, *callbacks]
        trainer.logger = _silent_logger(trainer)
        try:
            trainer.fit(model, train_dataloaders=loaders, datamodule=datamodule)
        finally:
            trainer.callbacks = callbacks
            trainer.loggers = logger
    if interrupted:
        raise interrupted[0]
    if not found:
        raise InvalidArgument(
            "expected fit to reach its first step; it ended before that: check whether "
            "max_epochs or limit_train_batches is 0"
        )
    return found[0]


def training_inside_fit(
    trainer: Any, module: Any
) -> tuple[AbstractContextManager[Training], int | None]:
    """The training as Lightning is about to run it, and its samples per optimizer step."""
    loader, make_loader = _loaders_of(trainer, module)
    sampler = getattr(loader, "batch_sampler", None)
    size = getattr(loader, "batch_size", None) or getattr(sampler, "batch_size", None)
    base = None if size is None else size * trainer.accumulate_grad_batches

    @contextmanager
    def silenced() -> Iterator[Training]:
        schedulers = [each.scheduler for each in trainer.strategy.lr_scheduler_configs]
        overridden = _overrides(module, "backward")
        manual = trainer.fit_loop.epoch_loop.manual_optimization
        with _quiet(trainer, module):
            yield Training(
                trainer.strategy.model,  # under DistributedDataParallel, what module is wrapped in
                loader,
                train_step=_step_of(trainer, module),
                optimizer=list(trainer.optimizers),
                scheduler=schedulers or None,
                clip=_clip_of(trainer, module),
                backward=module.backward if overridden else None,
                grad_scaler=getattr(trainer.precision_plugin, "scaler", None),
                make_loader=make_loader,
                preserve=() if module.automatic_optimization else [manual.optim_step_progress],
            )

    return silenced(), base


def _step_of(trainer: Any, module: Any) -> Callable[[Any, Any], Any]:
    wants_index = len(inspect.signature(module.training_step).parameters) > 1

    def step(_: Any, batch: Any) -> Any:
        moved = trainer.precision_plugin.convert_input(batch)  # as before a training step
        moved = module._on_before_batch_transfer(moved, dataloader_idx=0)
        moved = trainer.strategy.batch_to_device(moved, dataloader_idx=0)
        output = trainer.strategy.training_step(*((moved, 0) if wants_index else (moved,)))
        if not module.automatic_optimization:
            return None
        loss = output["loss"] if isinstance(output, Mapping) else output
        if not isinstance(loss, torch.Tensor):
            raise InvalidArgument(
                f"expected training_step to return a loss; found {type(loss).__name__}: return a "
                "tensor, or a dict with the key 'loss'"
            )
        return loss

    return step


def _clip_of(trainer: Any, module: Any) -> Callable[[Any], None] | None:
    if not module.automatic_optimization:
        return None
    if not trainer.gradient_clip_val and not _overrides(module, "configure_gradient_clipping"):
        return None

    def clip(_: Any) -> None:
        for optimizer in trainer.optimizers:
            module.configure_gradient_clipping(
                optimizer,
                gradient_clip_val=trainer.gradient_clip_val,
                gradient_clip_algorithm=trainer.gradient_clip_algorithm,
            )

    return clip


def _overrides(module: Any, name: str) -> bool:
    owner = next(kind for kind in type(module).__mro__ if name in vars(kind))
    return owner.__name__ != "LightningModule"


@contextmanager
def _quiet(trainer: Any, module: Any) -> Iterator[None]:
    """Nothing is logged, and the counters of the loops are put back."""
    loggers, loop = trainer.loggers, trainer.fit_loop.epoch_loop
    counters = [loop.automatic_optimization.optim_progress, loop.manual_optimization]
    kept = copy.deepcopy([vars(counter) for counter in counters[:1]])

    def silent(*_: Any, **__: Any) -> None:
        return

    trainer.logger = _silent_logger(trainer)
    with kept_attributes(counters[1]):
        object.__setattr__(module, "log", silent)
        object.__setattr__(module, "log_dict", silent)
        try:
            yield
        finally:
            object.__delattr__(module, "log")
            object.__delattr__(module, "log_dict")
            trainer.loggers = loggers
            vars(counters[0]).update(kept[0])


def _loaders_of(trainer: Any, module: Any) -> tuple[Any, Callable[[int], Any] | None]:
    """The training loader; several become one, rebuilt through the batch size's attribute."""
    source = trainer.fit_loop._data_source
    loader = _requested(trainer, source)
    if not isinstance(loader, Mapping | list | tuple) and type(loader).__name__ != "CombinedLoader":
        return _of_rank(trainer, loader), None
    holders = holders_of(trainer, module, trainer.datamodule, "batch_size")
    if not holders or not source.is_defined() or source.instance is loader:
        raise InvalidArgument(
            "expected one training loader, or several that a method builds from an attribute "
            f"batch_size; found {type(loader).__name__}: keep the size in self.batch_size"
        )
    combined = importlib.import_module(
        f"{_package(trainer)}.utilities.combined_loader"
    ).CombinedLoader

    def make_loader(size: int) -> Any:
        before = [value_on(holder, "batch_size") for holder in holders]
        for holder in holders:
            set_on(holder, "batch_size", size)
        try:
            together = combined(_requested(trainer, source), "max_size_cycle")
            together.flattened = [_of_rank(trainer, each) for each in together.flattened]
            return _First(together)
        finally:
            for holder, old in zip(holders, before, strict=True):
                set_on(holder, "batch_size", old)

    return None, make_loader


def _requested(trainer: Any, source: Any) -> Any:
    """What the user gives, in such a way that Lightning can give it another sampler."""
    if trainer.world_size == 1:
        return source.dataloader()
    connectors = f"{_package(trainer)}.trainer.connectors.data_connector"
    return importlib.import_module(connectors)._request_dataloader(source)


def _of_rank(trainer: Any, loader: Any) -> Any:
    """The loader with this rank's sampler in it, as ``fit`` would read it."""
    if trainer.world_size == 1:
        return loader
    mode = importlib.import_module(f"{_package(trainer)}.trainer.states").RunningStage.TRAINING
    return trainer._data_connector._prepare_dataloader(loader, shuffle=True, mode=mode)


class _First:
    """The batches of a ``CombinedLoader`` without the indices beside them."""

    def __init__(self, combined: Any) -> None:
        self.combined = combined

    def __iter__(self) -> Iterator[Any]:
        return (item[0] for item in self.combined)


# Of the trainer's own package, lightning or pytorch_lightning ------------------------------


def callbacks() -> tuple[type[Any], ...]:
    """The ``Callback`` of each package that is installed; a trainer accepts its own alone."""
    found = []
    for package in ("lightning.pytorch", "pytorch_lightning"):
        with suppress(ImportError):
            found.append(importlib.import_module(package).Callback)
    return tuple(found)


def _package(trainer: Any) -> str:
    root: str = type(trainer).__module__.partition(".")[0]
    return "lightning.pytorch" if root == "lightning" else root


def _exit_of(trainer: Any) -> type[Exception]:
    found: type[Exception] = importlib.import_module(
        f"{_package(trainer)}.utilities.exceptions"
    )._TunerExitException
    return found


def _silent_logger(trainer: Any) -> Any:
    return importlib.import_module(f"{_package(trainer)}.loggers.logger").DummyLogger()
