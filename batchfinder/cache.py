"""Largest batch sizes remembered in a file; each is verified again by one trial.

Off unless asked (``cache=path``). An entry is found again only where nothing that memory depends
on has changed: the model's structure and code, the step, the shape of a batch, the device, its
limit, the versions, and what was searched for.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchfinder.errors import InvalidArgument
from batchfinder.probe import Propose, SearchSpace, guided, has_ended, latest, probe
from batchfinder.protocols import Observer, Ranks, Setup, WholeStep
from batchfinder.results import Outcome, Trial

__all__ = ["Recalled", "described", "probe_remembering", "recheck"]

_FORMAT = "batchfinder cache 2"


@dataclass(frozen=True)
class Recalled:
    """What a search with a memory gave.

    ``trials`` were run now. ``evidence`` is what conclusions rest on: the same, or, where one
    trial only confirmed what the file remembers, the remembered ones with it.
    """

    trials: tuple[Trial, ...]
    evidence: tuple[Trial, ...]
    ended: bool = True

    @property
    def is_confirmed(self) -> bool:
        """Whether the evidence is more than what was run now."""
        return len(self.evidence) > len(self.trials)


_OF_SPACE = ("ceiling", "limit_bytes", "resolution", "multiple_of", "powers_of_two", "floor")
"""What must agree of the sizes that may be tried."""


def probe_remembering(
    run: Callable[[int], Trial],
    space: SearchSpace,
    *,
    path: str | os.PathLike[str],
    described: Mapping[str, str],
    propose: Propose = guided,
    observe: Observer | None = None,
    enough: Callable[[], bool] = lambda: False,
    before: Callable[[int, Sequence[Trial]], None] = lambda size, trials: None,
    own: int | None = None,
    ranks: Ranks | None = None,
) -> Recalled:
    """``probe``, beginning with what the file at ``path`` remembers, and adding to it.

    A remembered size that fits is the answer after one trial, and what the earlier trials said of
    the memory still holds. One that does not is forgotten, and the search goes on from there. A
    search that was cut short is not remembered.

    Args:
        run: as for ``probe``, as are ``propose``, ``observe``, ``enough``, ``before`` and ``own``.
        space: likewise; it is part of what must agree.
        path: a JSON file; it need not exist yet.
        described: what else must agree, such as ``described(...)`` gives.
        propose: see there.
        observe: see there.
        enough: see there.
        before: see there.
        own: see there.
        ranks: who searches together; the first one reads and writes for all.

    Raises:
        InvalidArgument: where the file at ``path`` is something else than a cache.
    """
    file = Path(path)
    entries = _read(file)
    searched = {name: str(getattr(space, name)) for name in _OF_SPACE}
    agreed = sorted({**described, **searched}.items())
    key = _digest(f"{name}={value}" for name, value in agreed)
    remembered = _trials_in(entries.get(key))
    if ranks is not None:
        remembered = ranks.tell("the cache", remembered)[0]
    largest = _largest(remembered)
    search = propose if largest is None else recheck(largest, then=propose)
    trials = probe(
        run, space, propose=search, observe=observe, enough=enough, before=before, own=own
    )
    ended = has_ended(trials, space, search)
    if _is_confirmed(trials, largest):
        return Recalled(trials, latest([*remembered, *trials]), ended)
    writes = ranks is None or ranks.rank == 0
    if ended and writes and _largest(trials) is not None:
        _write(file, {**_read(file), key: _entry(described, latest(trials))})
    return Recalled(trials, trials, ended)


def recheck(size: int, *, then: Propose = guided) -> Propose:
    """A search that begins at ``size`` and ends there if it fits; else ``then`` goes on."""

    def propose(trials: Sequence[Trial], space: SearchSpace) -> int | None:
        if not trials:
            return space.at_most(size)
        return None if _is_confirmed(trials, size) else then(trials, space)

    return propose


def described(
    setup: Setup[WholeStep],
    *,
    functions: Iterable[Any] = (),
    versions: Mapping[str, str],
) -> dict[str, str]:
    """What the largest batch depends on, as text, one line per kind.

    Args:
        setup: the training step, its batches and the device's memory.
        functions: the user's loss and step functions, whose code counts.
        versions: of the packages that decide memory.
    """
    step, source, memory = setup.step, setup.source, setup.memory
    small = source.take(min(2, source.ceiling or 2))
    return {
        "model": _digest(line for module in step.modules() for line in _module_lines(module)),
        "code": _digest(_code(each) for each in functions),
        "optimizer": _digest(_optimizer_lines(step.optimizers())),
        "precision": step.precision,
        "batch": _digest(_shapes(small)),
        "device": f"{step.device} {memory.name}",
        "limit": str(memory.limit_bytes()),
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "python": platform.python_version(),
    }


def _largest(trials: Sequence[Trial]) -> int | None:
    return max((trial.batch_size for trial in latest(trials) if trial.fits), default=None)


def _is_confirmed(trials: Sequence[Trial], size: int | None) -> bool:
    """Whether ``size`` alone was run, and fits; once more, where it was disturbed."""
    counting = latest(trials)
    return len(counting) == 1 and counting[0].fits and counting[0].batch_size == size


def _module_lines(module: Any) -> Iterator[str]:
    yield repr(module)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        yield f"{name} {tuple(tensor.shape)} {tensor.dtype} {tensor.requires_grad}"
    for name, inner in module.named_modules():
        yield f"{name} {inner.training}"
    for kind in sorted({type(inner) for inner in module.modules()}, key=repr):
        if not kind.__module__.startswith("torch."):
            yield _code(kind.forward)


def _optimizer_lines(optimizers: Iterable[Any]) -> Iterator[str]:
    for optimizer in optimizers:
        yield type(optimizer).__qualname__
        for group in optimizer.param_groups:
            options = {k: v for k, v in group.items() if k not in ("params", "lr", "initial_lr")}
            yield f"{sorted(options.items(), key=lambda item: item[0])} {len(group['params'])}"


def _code(function: Any) -> str:
    """The source of a function or of an object's class; its name where there is none."""
    if function is None:
        return ""
    target = function if inspect.isroutine(function) else type(function)
    try:
        return inspect.getsource(target)
    except (OSError, TypeError):
        return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', target)}"


def _shapes(batch: Any) -> Iterator[str]:
    if hasattr(batch, "shape") and hasattr(batch, "dtype"):
        yield f"{tuple(batch.shape)} {batch.dtype}"
    elif isinstance(batch, Mapping):
        for key in batch:
            yield str(key)
            yield from _shapes(batch[key])
    elif isinstance(batch, list | tuple):
        for each in batch:
            yield from _shapes(each)
    else:
        yield type(batch).__qualname__


def _digest(lines: Iterable[str]) -> str:
    total = hashlib.blake2b(digest_size=16)
    for line in lines:
        total.update(line.encode() + b"\0")
    return total.hexdigest()


def _entry(described: Mapping[str, str], trials: Sequence[Trial]) -> dict[str, Any]:
    rows = [
        [trial.batch_size, trial.outcome.name, trial.peak_bytes, trial.reserved_bytes]
        for trial in trials
    ]
    return {"described": dict(described), "trials": rows}


def _trials_in(entry: Any) -> tuple[Trial, ...]:
    if entry is None:
        return ()
    return tuple(
        Trial(size, Outcome[name], peak, reserved_bytes=reserved)
        for size, name, peak, reserved in entry["trials"]
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InvalidArgument(
            f"expected a cache written by batchfinder, or no file; found something else at "
            f"{file}: choose another path for cache="
        )
    entries: dict[str, Any] = content["entries"]
    return entries


def _write(file: Path, entries: Mapping[str, Any]) -> None:
    """All or nothing, so that a reader never sees half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.name, suffix=".part")
    with os.fdopen(handle, "w", encoding="utf-8") as part:
        json.dump({"format": _FORMAT, "entries": entries}, part, indent=1)
    Path(name).replace(file)
