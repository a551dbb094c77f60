"""What every kind of state is to a snapshot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import torch

__all__ = ["Part"]


class Part(ABC):
    """One kind of state: saved when built, put back by ``restore``, named by ``items``."""

    modules: Iterable[torch.nn.Module] = ()
    """The modules whose state this is."""
    is_optimizer = False
    """Whether this is the state of an optimizer."""

    @abstractmethod
    def restore(self) -> None: ...

    @abstractmethod
    def items(self) -> Iterator[tuple[str, Any]]:
        """What it is now, each under a name; what stands before a slash is the kind."""

    def restore_carried(self) -> None:
        """Put back what one batch leaves for the next; parameters are not part of it."""
        return

    def left(self) -> tuple[str, ...]:
        """Names of logs and counters that a step has changed, and that are not put back."""
        return ()

    def left_in_data(self) -> tuple[str, ...]:
        """Names of what data sets count for themselves, and what reading has changed of it."""
        return ()
