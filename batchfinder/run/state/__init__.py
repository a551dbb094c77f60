"""Put everything back, and prove it.

``preserved`` takes one snapshot of all that training at another size may touch, puts it back on
the way out (after an exception and Ctrl-C too), and can say by a digest whether it is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from batchfinder.run.reachable import Reached, reached_from
from batchfinder.run.state.found import FoundState
from batchfinder.run.state.modules import ModuleState, OptimizerState, is_optimizer
from batchfinder.run.state.objects import PlainObject, ReadData, StatefulObject, says_its_state
from batchfinder.run.state.part import Part, digest
from batchfinder.run.state.process import BackendFlags, GeneratorState, RandomState, generators_of

__all__ = ["GeneratorState", "RandomState", "Snapshot", "generators_of", "preserved"]


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

    def restore_carried(self) -> None:
        """Put back what one batch leaves for the next, such as a queue or a hidden state.

        Buffers and plain attributes of modules, and tensors that a step reaches otherwise.
        Parameters and the state of optimizers stay.
        """
        for part in self._parts:
            part.restore_carried()

    @property
    def keeps_optimizer(self) -> bool:
        """Whether an optimizer is among what is put back."""
        return any(part.is_optimizer for part in self._parts)

    def modules(self) -> Iterator[torch.nn.Module]:
        """Every module that is put back, parts of others included."""
        for part in self._parts:
            yield from part.modules

    def digests(self) -> dict[str, str]:
        """A digest per kind of state as it is now: of parameters, random numbers and so on."""
        named: dict[str, list[tuple[str, Any]]] = {}
        for part in self._parts:
            for name, value in part.items():
                named.setdefault(name.split("/")[0], []).append((name, value))
        return {kind: digest(items) for kind, items in named.items()}

    def left(self) -> tuple[str, ...]:
        """Names of logs and counters that the step has changed, which stay as they are."""
        return tuple(name for part in self._parts for name in part.left())

    def left_in_data(self) -> tuple[str, ...]:
        """Names of what the data sets count for themselves, which reading has changed."""
        return tuple(name for part in self._parts for name in part.left_in_data())

    def differences(self) -> tuple[str, ...]:
        """The kinds of state that are not now what they were; empty after a good ``restore``."""
        now = self.digests()
        kinds = self._before.keys() | now.keys()
        return tuple(sorted(kind for kind in kinds if now.get(kind) != self._before.get(kind)))


@contextmanager
def preserved(
    *objects: Any, loader: Any = None, parameters: bool = True, reaching: Sequence[Any] = ()
) -> Iterator[Snapshot]:
    """Restore the state of ``objects`` and of the process bit for bit on exit.

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
        reaching: functions of whose closures, globals and bound objects the modules, optimizers,
            averages, generators and tensors are kept too.

    Yields:
        The snapshot, whose ``restore`` may be called in between too.

    Raises:
        InvalidArgument: where an object is of none of these kinds.
    """
    snapshot = Snapshot(_parts(objects, loader, parameters, reached_from(reaching)))
    try:
        yield snapshot
    finally:
        _to_the_end(snapshot.restore)


def _parts(
    objects: Sequence[Any], loader: Any, parameters: bool, reached: Reached
) -> Iterator[Part]:
    given = {id(each) for each in objects}
    objects = [
        *objects,
        *(
            each
            for each in (*reached.modules, *reached.optimizers, *reached.scalers)
            if id(each) not in given
        ),
    ]
    known = {id(each) for each in objects}
    for each in objects:  # and what is appended on the way
        inner = [found for found in _inside(each) if id(found) not in known]
        objects += inner
        known |= {id(found) for found in inner}
    modules = [each for each in objects if isinstance(each, torch.nn.Module)]
    yield ModuleState(modules, _parameters_in(objects) if parameters else ())
    for index, each in enumerate(filter(is_optimizer, objects)):
        yield OptimizerState(each, index=index)
    # Loading replaces containers that others may share: only where what came before left a change.
    for each in objects:
        if isinstance(each, torch.nn.Module | torch.optim.Optimizer):
            continue
        if says_its_state(each):
            yield StatefulObject(each)
        elif not is_optimizer(each):
            yield PlainObject(each)
    for each in reached.stateful:
        if id(each) not in given and says_its_state(each):
            yield StatefulObject(each)
    yield FoundState(reached, _kept_by_others(objects, modules))
    yield GeneratorState([*generators_of(loader), *reached.generators])
    yield ReadData(loader, given)
    yield BackendFlags()
    # last, since putting tensors back must not be able to draw a random number afterwards
    yield RandomState()


def _inside(wrapper: Any) -> Iterator[torch.optim.Optimizer]:
    """What an optimizer or a scheduler wraps, or keeps this rank's part of the state in."""
    if not isinstance(wrapper, torch.nn.Module):
        for inner in getattr(wrapper, "__dict__", {}).values():
            if isinstance(inner, torch.optim.Optimizer):
                yield inner


def _kept_by_others(objects: Sequence[Any], modules: Sequence[torch.nn.Module]) -> set[int]:
    """Ids of parameters, buffers, optimizer state, and of containers that modules hold."""
    known = {id(p) for p in _parameters_in(objects)}
    for module in modules:
        known |= {id(each) for each in (*module.parameters(), *module.buffers())}
        known |= {id(value) for part in module.modules() for value in vars(part).values()}
    for each in filter(is_optimizer, objects):
        known |= {id(each.state), id(each.param_groups), *map(id, each.param_groups)}
        for inner in each.state.values():
            known |= {id(value) for value in (inner.values() if isinstance(inner, dict) else ())}
    return known


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
