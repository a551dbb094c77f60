"""Ask before every collective.

A dispatch mode sees every collective as an operator, whoever issues it: the reducer of
DistributedDataParallel, the all-gathers of ``fully_shard``, an optimizer, DTensor, the user. Before
it lets one through it has every rank say that it is well. A rank that ran out of memory says so in
place of its next one, and nobody begins what it will not join: nothing waits for ever, and nothing
has to be aborted.

What has begun ends, since all ranks began it. Where a step is cut it is waited for: it would write
into buffers that the next step uses.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from batchfinder.run.torch_internals.distributed import is_under_way, work_begun
from batchfinder.run.torch_internals.tensors import TorchDispatchMode, operator_name

__all__ = ["Gate"]

_NAMESPACES = ("c10d", "_c10d_functional")
_NOT_BEGUN = ("wait_tensor", "monitored_barrier_")
"""Operators there that begin nothing."""


class Gate(TorchDispatchMode):
    """Calls ``ask`` with the name of every collective that is about to begin."""

    def __init__(self, ask: Callable[[str], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's modes are not annotated
        self._ask = ask
        self._begun: list[Any] = []
        tensors = sys.modules.get("torch.distributed.tensor")
        self._distributed = getattr(tensors, "DTensor", None)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if self._distributed is not None and any(issubclass(t, self._distributed) for t in types):
            return NotImplemented  # which turns it into operators on local tensors, seen here again
        if func.namespace in _NAMESPACES and (name := operator_name(func)) not in _NOT_BEGUN:
            self._ask(f"collective {name}")
            result = func(*args, **(kwargs or {}))
            # only what is under way is kept, since it keeps its tensors
            self._begun = [
                each for each in (*self._begun, *work_begun(result)) if is_under_way(each)
            ]
            return result
        return func(*args, **(kwargs or {}))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        begun, self._begun = self._begun, []
        if error is None:
            return
        for work in begun:
            with suppress(RuntimeError):  # of a rank that is gone; the error here says more
                work.wait()

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True  # else the compiler would give up what it meets under this mode
