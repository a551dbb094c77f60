"""What the adapters have in common: what was applied, what is refused, what a report gains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from batchfinder.errors import CannotBuildBatch, InvalidArgument
from batchfinder.report import Report
from batchfinder.run.batches import rows_in
from batchfinder.training import Training
from batchfinder.wording import Caveat

__all__ = [
    "Applied",
    "check_options",
    "kept_attributes",
    "refuse_strategy",
    "rows_of",
    "with_framework",
    "with_members",
]

_ANSWERED = (
    "train_step",
    "loss_fn",
    "optimizer",
    "scheduler",
    "clip",
    "backward",
    "autocast",
    "grad_scaler",
)


_OF_CALLER = ("count", "batch_dim", "ranks")


@dataclass(frozen=True)
class Applied:
    """One value that a report set: where, the old value and the new one.

    ``done`` is ``False`` where it could not be set; ``where`` is then the line to write by hand.
    """

    where: str
    old: Any
    new: Any
    done: bool = True

    def __str__(self) -> str:
        if not self.done:
            return f"set by hand: {self.where} (was {self.old}, now {self.new})"
        return f"{self.where}: {self.old} -> {self.new}"


def check_options(options: Mapping[str, Any], framework: str) -> None:
    """Refuse options that the framework's objects answer.

    Raises:
        InvalidArgument: naming the first.
    """
    for name in _ANSWERED:
        if options.get(name) is not None:
            raise InvalidArgument(
                f"expected {name} to come from the {framework} objects; found it as an argument: "
                "leave it out"
            )


def with_members(training: Training, options: dict[str, Any]) -> Training:
    """The training with the members that only the caller knows, which leave ``options``."""
    given = {name: options.pop(name) for name in _OF_CALLER if name in options}
    preserve = (*training.preserve, *options.pop("preserve", ()))
    return replace(training, preserve=preserve, **given)


def refuse_strategy(strategy: Any, owner: str) -> None:
    """Refuse strategies of Lightning other than one device and DistributedDataParallel.

    Raises:
        InvalidArgument: with the way out.
    """
    name = type(strategy).__name__
    if name not in ("SingleDeviceStrategy", "DDPStrategy"):
        raise InvalidArgument(
            f"expected one device or DDPStrategy; found {name}: search with {owner}(devices=1) or "
            f"{owner}(strategy='ddp'), then leave headroom"
        )


def with_framework(
    report: Report, *distributions: str, counted: Iterable[str] = (), **settings: str
) -> Report:
    """The report with versions, the framework's own ``settings``, and what is counted in steps."""
    named = tuple((name, version(name)) for name in distributions)
    extra = (*report.environment.extra, *named, *settings.items())
    environment = replace(report.environment, extra=extra)
    caveats = report.caveats
    steps = tuple(counted)
    if steps and report.global_batch_size != report.base_batch_size:
        base = report.base_batch_size or report.global_batch_size
        samples = report.global_batch_size / base
        caveats = (*caveats, Caveat("integrations.counted", names=steps, factor=samples))
    return replace(report, environment=environment, caveats=caveats)


def rows_of(batch: Any) -> int:
    """Samples in a batch, or 1 where that cannot be told."""
    try:
        return rows_in(batch)
    except CannotBuildBatch:
        return 1


@contextmanager
def kept_attributes(*things: Any) -> Iterator[None]:
    """Each object's attributes are afterwards the same objects, and lists hold the same items."""
    saved = [dict(vars(thing)) for thing in things]
    lists = [
        [(value, list(value)) for value in attributes.values() if type(value) is list]
        for attributes in saved
    ]
    try:
        yield
    finally:
        for thing, attributes, contents in zip(things, saved, lists, strict=True):
            vars(thing).clear()
            vars(thing).update(attributes)
            for value, items in contents:
                value[:] = items
