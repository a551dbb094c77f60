"""Lightning: a callback that searches and applies, and functions on a ``Trainer`` or on Fabric.

    from batchfinder.integrations.lightning import BatchFinder

    trainer = Trainer(callbacks=[BatchFinder()])
    trainer.fit(model, datamodule=datamodule)

Works with ``lightning`` and ``pytorch_lightning`` alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from batchfinder.errors import BatchFinderWarning, MissingDependency
from batchfinder.find import find_batch_size as search
from batchfinder.integrations.lightning_apply import Names, apply_before_fit, apply_inside_fit
from batchfinder.integrations.lightning_fabric import fabric_training, is_fabric
from batchfinder.integrations.lightning_monitor import MonitorCallback
from batchfinder.integrations.lightning_trainer import (
    callbacks,
    inside_fit,
    refuse,
    training_inside_fit,
)
from batchfinder.integrations.shared import Applied, check_options, with_framework, with_members
from batchfinder.max_batch import max_batch_size as probe
from batchfinder.report import Report
from batchfinder.results import ProbeResult

_CALLBACKS = callbacks()
if not _CALLBACKS:
    raise MissingDependency(
        "batchfinder.integrations.lightning needs lightning or pytorch_lightning: "
        'pip install "lightning>=2.4"'
    )

__all__ = ["BatchFinder", "MonitorCallback", "apply", "find_batch_size", "max_batch_size"]

_BATCH_NAMES = ("batch_size",)
_RATE_NAMES = ("lr", "learning_rate")


class BatchFinder(*_CALLBACKS):  # type: ignore[misc]  # of every package that is installed
    """Search at the start of ``fit``, set batch size, accumulation and learning rate, and train.

    On a resumed run (``ckpt_path``), the search waits until the optimizer is loaded. Several
    processes search together. With ``fast_dev_run`` it warns and does nothing.

    Args:
        batch_arg_name: attribute of the batch size on the module, its ``hparams``, the datamodule
            or its ``hparams``; several names are tried in order.
        lr_arg_name: the same for the learning rate.
        apply: whether to set the result; if false, only the report is made.
        milestones: epochs at whose start to search again, for example after layers are unfrozen.
        **options: keyword arguments of ``batchfinder.find_batch_size``; ``count``, ``batch_dim``,
            ``preserve`` and ``ranks`` of ``Training`` too.

    Attributes:
        report: the report of the last search; ``None`` before it.
        applied: what was set.
    """

    def __init__(
        self,
        *,
        batch_arg_name: str | Sequence[str] = _BATCH_NAMES,
        lr_arg_name: str | Sequence[str] = _RATE_NAMES,
        apply: bool = True,
        milestones: Sequence[int] = (),
        **options: Any,
    ) -> None:
        super().__init__()
        check_options(options, "Lightning")
        self._names = _names(batch_arg_name, lr_arg_name)
        self._apply = apply
        self._milestones = frozenset(milestones)
        self._options = options
        self.report: Report | None = None
        self.applied: tuple[Applied, ...] = ()

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Search here, unless the optimizer's state is still to be loaded."""
        if trainer.ckpt_path is None:
            self._search(trainer, pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Search here on a resumed run."""
        if self.report is None:
            self._search(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Search here at a milestone."""
        if trainer.current_epoch in self._milestones and trainer.global_step:
            self._search(trainer, pl_module)

    def _search(self, trainer: Any, module: Any) -> None:
        if trainer.fast_dev_run:
            warnings.warn(
                "fast_dev_run is on: BatchFinder did not search and changed nothing",
                BatchFinderWarning,
                stacklevel=2,
            )
            return
        refuse(trainer)
        training, base = training_inside_fit(trainer, module)
        options = {"base_batch_size": base, **self._options}
        with training as made:
            report = search(with_members(made, options), **options)
        self.report = _named(report, trainer)
        if self._apply:
            self.applied = apply_inside_fit(self.report, trainer, module, self._names)


def find_batch_size(
    trainer: Any,
    model: Any,
    *objects: Any,
    train_dataloaders: Any = None,
    datamodule: Any = None,
    apply: bool = False,
    batch_arg_name: str | Sequence[str] = _BATCH_NAMES,
    lr_arg_name: str | Sequence[str] = _RATE_NAMES,
    **options: Any,
) -> Report:
    """``batchfinder.find_batch_size`` on a Lightning ``Trainer``, or on what Fabric set up.

    ``find_batch_size(trainer, model, train_dataloaders, datamodule=...)`` begins ``fit``, searches
    where the first step would be taken, and leaves. ``find_batch_size(fabric, model, optimizer,
    loader, loss_fn=...)`` takes what ``fabric.setup`` and ``fabric.setup_dataloaders`` returned.

    Args:
        trainer: a ``Trainer``, or a ``Fabric``.
        model: the ``LightningModule``; with Fabric the module that it set up.
        *objects: the training loaders; with Fabric the optimizer and the loader.
        train_dataloaders: the training loaders, by name.
        datamodule: as for ``Trainer.fit``.
        apply: whether to set the result on module, datamodule and trainer.
        batch_arg_name: as for ``BatchFinder``.
        lr_arg_name: see there.
        **options: other keyword arguments of ``batchfinder.find_batch_size``; with Fabric
            ``loss_fn`` or ``train_step`` too; and members of ``Training`` as for ``BatchFinder``.

    Raises:
        InvalidArgument: for ``overfit_batches``, strategies other than one device and
            DistributedDataParallel, and options that the objects answer.
    """
    if is_fabric(trainer):
        with fabric_training(trainer, model, *objects, options=options) as made:
            report = search(with_members(made, options), **options)
        return with_framework(
            report,
            "lightning",
            precision=str(trainer._precision.precision),
            strategy=type(trainer.strategy).__name__,
        )
    check_options(options, "Lightning")
    loaders = objects[0] if objects else train_dataloaders

    def work(inner: Any, module: Any) -> Report:
        training, base = training_inside_fit(inner, module)
        with training as made:
            return search(with_members(made, options), **{"base_batch_size": base, **options})

    report = _named(inside_fit(trainer, model, loaders, datamodule, work), trainer)
    if apply:
        apply_before_fit(report, trainer, model, datamodule, _names(batch_arg_name, lr_arg_name))
    return report


def max_batch_size(
    trainer: Any,
    model: Any,
    *objects: Any,
    train_dataloaders: Any = None,
    datamodule: Any = None,
    **options: Any,
) -> ProbeResult:
    """The largest micro-batch that fits; what ``Tuner.scale_batch_size`` looks for.

    Args:
        trainer: as for ``find_batch_size``, as are all that follow.
        model: see there.
        *objects: see there.
        train_dataloaders: see there.
        datamodule: see there.
        **options: other keyword arguments of ``batchfinder.max_batch_size``, and as there.

    Raises:
        InvalidArgument: as ``find_batch_size``.
    """
    if is_fabric(trainer):
        with fabric_training(trainer, model, *objects, options=options) as made:
            return probe(with_members(made, options), **options)
    check_options(options, "Lightning")
    loaders = objects[0] if objects else train_dataloaders

    def work(inner: Any, module: Any) -> ProbeResult:
        training, _ = training_inside_fit(inner, module)
        with training as made:
            return probe(with_members(made, options), **options)

    found: ProbeResult = inside_fit(trainer, model, loaders, datamodule, work)
    return found


def apply(
    report: Report,
    trainer: Any,
    model: Any,
    *,
    datamodule: Any = None,
    batch_arg_name: str | Sequence[str] = _BATCH_NAMES,
    lr_arg_name: str | Sequence[str] = _RATE_NAMES,
) -> tuple[Applied, ...]:
    """Set batch size, accumulation steps and learning rate for the next ``fit``.

    What has no place to be set is an ``Applied`` with ``done=False`` and the line to write.
    """
    return apply_before_fit(report, trainer, model, datamodule, _names(batch_arg_name, lr_arg_name))


def _names(batch_size: str | Sequence[str], rate: str | Sequence[str]) -> Names:
    def several(given: str | Sequence[str]) -> tuple[str, ...]:
        return (given,) if isinstance(given, str) else tuple(given)

    return Names(several(batch_size), several(rate))


def _named(report: Report, trainer: Any) -> Report:
    package = type(trainer).__module__.partition(".")[0]
    counted = []
    if trainer.max_steps is not None and trainer.max_steps > 0:
        counted.append("max_steps")
    if isinstance(trainer.val_check_interval, int):
        counted.append("val_check_interval")
    if isinstance(trainer.limit_train_batches, int):
        counted.append("limit_train_batches")
    name = "lightning" if package == "lightning" else "pytorch-lightning"
    return with_framework(
        report,
        name,
        counted=counted,
        precision=str(trainer.precision),
        strategy=type(trainer.strategy).__name__,
    )
