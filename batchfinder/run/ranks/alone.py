"""One process: nothing is sent, asked or waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

__all__ = ["ALONE", "Alone"]

T = TypeVar("T")


class Alone:
    """The ranks of a single process. Given as ``ranks=`` it makes this rank search by itself."""

    rank = 0
    size = 1
    alone = True
    replicas = 1
    waited_seconds = 0.0
    ran_out = 0
    is_gated = is_over = False

    def meet(self, described: Mapping[str, str], *, replicas: int | None = None) -> Alone:
        """Nobody is waited for."""
        del described, replicas
        return self

    def tell(self, where: str, value: T) -> list[T]:
        """The own value alone."""
        del where
        return [value]

    def together(self, where: str) -> AbstractContextManager[None]:
        del where
        return nullcontext()

    def guarded(
        self, where: str, mend: Callable[[], None] = lambda: None
    ) -> AbstractContextManager[None]:
        del where, mend
        return nullcontext()

    def gate(self) -> AbstractContextManager[None]:
        return nullcontext()

    def ungated(self) -> AbstractContextManager[None]:
        return nullcontext()

    def clock(self) -> float:
        return time.perf_counter()

    def left_with(self, error: BaseException) -> None:
        """Nobody is told."""

    def __repr__(self) -> str:
        return "ALONE"


ALONE = Alone()
