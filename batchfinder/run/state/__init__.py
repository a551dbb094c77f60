"""Put everything back, and prove it.

``preserved`` takes one snapshot of all that training at another size may touch, puts it back on
the way out (after an exception and Ctrl-C too), and can say by a digest whether it is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from batchfinder.run.state.digest import digest
from batchfinder.run.state.flags import BackendFlags
from batchfinder.run.state.modules import ModuleState
from batchfinder.run.state.objects import StatefulObject
from batchfinder.run.state.optimizers import OptimizerState
from batchfinder.run.state.randomness import GeneratorState, RandomState, generators_of

__all__ = ["Snapshot", "preserved"]


class Part(Protocol):
    """One kind of state: saved when built, put back by ``restore``, named by ``items``."""

    def restore(self) -> None: ...
    def items(self) -> Iterator[tuple[str, Any]]: ...


class Snapshot:
    """The state as it was, and the way back to it.

    Tensors are kept in host memory, so that a snapshot of a model on a GPU costs no GPU memory.
    """

    def __init__(self, parts: Iterable[Part]) -> None:
        self._parts = tuple(parts)
        self._before = self.digests()

    def restore(self) -> None:
        """Put everything back. May be called any number of times."""
        for part in self._parts:
            part.restore()

    def digests(self) -> dict[str, str]:
        """A digest per kind of state as it is now: of parameters, random numbers and so on."""
        named: dict[str, list[tuple[str, Any]]] = {}
        for part in self._parts:
            for name, value in part.items():
                named.setdefault(name.split("/")[0], []).append((name, value))
        return {kind: digest(items) for kind, items in named.items()}

    def differences(self) -> tuple[str, ...]:
        """The kinds of state that are not now what they were; empty after a good ``restore``."""
        now = self.digests()
        kinds = self._before.keys() | now.keys()
        return tuple(sorted(kind for kind in kinds if now.get(kind) != self._before.get(kind)))


@contextmanager
def preserved(*objects: Any, loader: Any = None, parameters: bool = True) -> Iterator[Snapshot]:
    """Everything that ``objects`` and the process hold is afterwards bit for bit what it was.

    Covers, of modules: parameters, persistent and other buffers, gradients (the same tensors where
    anybody holds them, or ``None``), each module's own mode, ``requires_grad``, and plain
    attributes (numbers, tensors, lists of them). Of optimizers: state (its emptiness too),
    parameter groups, and parameters that no module has. Of anything else with ``state_dict``:
    that. Of the process: Python, NumPy, torch and device generators and the backend flags. Of
    ``loader``: its generators.

    Args:
        objects: modules, optimizers, or anything with ``state_dict`` and ``load_state_dict``.
        loader: the data loader whose generators are to be kept.
        parameters: whether those of optimizers are kept; not where another snapshot does.

    Yields:
        The snapshot, whose ``restore`` may be called in between too.

    Raises:
        InvalidArgument: where an object is of none of these kinds.
    """
    snapshot = Snapshot(_parts(objects, loader, parameters))
    try:
        yield snapshot
    finally:
        _to_the_end(snapshot.restore)


def _parts(objects: Sequence[Any], loader: Any, parameters: bool) -> Iterator[Part]:
    modules = [each for each in objects if isinstance(each, torch.nn.Module)]
    yield ModuleState(modules, _parameters_in(objects) if parameters else ())
    optimizers = 0
    for each in objects:
        if isinstance(each, torch.optim.Optimizer):
            yield OptimizerState(each, index=optimizers)
            optimizers += 1
        elif not isinstance(each, torch.nn.Module):
            yield StatefulObject(each)
    yield GeneratorState(generators_of(loader))
    yield BackendFlags()
    # last, since putting tensors back must not be able to draw a random number afterwards
    yield RandomState()


def _parameters_in(objects: Iterable[Any]) -> Iterator[torch.nn.Parameter]:
    """What optimizers train, of the modules or not."""
    for each in objects:
        for group in getattr(each, "param_groups", ()):
            yield from group["params"]


def _to_the_end(action: Callable[[], None]) -> None:
    """Run an idempotent ``action`` whole even if Ctrl-C falls into it; then let Ctrl-C through."""
    interrupted: KeyboardInterrupt | None = None
    while True:
        try:
            action()
        except KeyboardInterrupt as signal:
            interrupted = signal
        else:
            break
    if interrupted is not None:
        raise interrupted
