"""What torch keeps once per process or thread, switched for a while.

Each switch is set when the first comes and put back when the last has gone, in whatever order
they go: putting back what one thread found would leave behind what another had set.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from batchfinder.run.torch_internals.compiler import is_loaded, recompile_config
from batchfinder.run.torch_internals.tensors import TorchDispatchMode

__all__ = ["compiled_again", "gradients_on", "uncompiled", "wider_recompile_limit"]


class _Stance:
    """Whether compiled code runs as it was written: as long as any thread needs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._needs: dict[int, dict[object, bool]] = {}
        self._set: AbstractContextManager[Any] | None = None

    @contextmanager
    def switched(self, eager: bool) -> Iterator[None]:
        """The innermost that a thread is inside of is what it needs."""
        thread, need = threading.get_ident(), object()
        with self._lock:
            self._needs.setdefault(thread, {})[need] = eager
        try:
            self._update()
            yield
        finally:
            with self._lock:
                del self._needs[thread][need]
                if not self._needs[thread]:
                    del self._needs[thread]
            self._update()

    def _update(self) -> None:
        with self._lock:
            eager = any([*needs.values()][-1] for needs in self._needs.values())
            if eager and self._set is None:
                self._set = torch.compiler.set_stance("force_eager")
            elif not eager and self._set is not None:
                self._set.__exit__(None, None, None)  # the user's own stance
                self._set = None


class _RecompileLimit:
    """The widest limit that any thread asks for; never less than the user's own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: list[int] = []
        self._own = 0

    @contextmanager
    def widened(self, config: Any, most: int) -> Iterator[None]:
        with self._lock:
            if not self._asked:
                self._own = config.recompile_limit
            self._asked.append(most)
            self._update(config)
        try:
            yield
        finally:
            with self._lock:
                self._asked.remove(most)
                self._update(config)

    def _update(self, config: Any) -> None:
        config.recompile_limit = max([self._own, *self._asked])


# One each, as the compiler has one of each.
_STANCE = _Stance()
_RECOMPILE_LIMIT = _RecompileLimit()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Inside, what ``torch.compile`` compiled runs as it was written; nothing compiled is touched.

    Under a dispatch mode the compiler would give up code objects for good. Nothing happens where
    the compiler was not loaded; there, code that is compiled for the first time inside runs
    compiled, and a mode does not see into it. Other threads' compiled code runs as it was written
    for as long.
    """
    if not is_loaded() or not hasattr(torch.compiler, "set_stance"):
        yield
        return
    with _STANCE.switched(eager=True):
        yield


@contextmanager
def compiled_again() -> Iterator[None]:
    """Inside ``uncompiled``, for work that is not counted: compiled code runs compiled again.

    Not where this torch's compiler would give code up under a dispatch mode, nor while another
    thread counts: it stays uncompiled.
    """
    if not is_loaded() or not hasattr(TorchDispatchMode, "ignore_compile_internals"):
        yield
        return
    with _STANCE.switched(eager=False):
        yield


@contextmanager
def wider_recompile_limit(most: int) -> Iterator[None]:
    """Room for as many graphs of one function inside; the user's own limit where none is kept."""
    config = recompile_config()
    if config is None:
        yield
        return
    with _RECOMPILE_LIMIT.widened(config, most):
        yield


@contextmanager
def gradients_on() -> Iterator[None]:
    """``no_grad`` and ``inference_mode`` of the caller's are off inside, and back on after."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
