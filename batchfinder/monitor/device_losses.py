"""Losses that lie on a device, fetched several at a time without waiting for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from batchfinder.monitor.losses import Taken

__all__ = ["DeviceLosses", "Transfer", "send"]

TOGETHER = 8
"""Losses that are fetched together: one that is not finite is known after so many steps, and
those that the device lies behind."""


class Transfer(Protocol):
    """Numbers on their way from a device."""

    def arrived(self) -> bool:
        """Whether they can be had without waiting."""
        ...

    def numbers(self) -> list[float]:
        """The numbers; waits for the device if need be."""
        ...


class DeviceLosses:
    """Keeps the losses of a device and hands them out as numbers, oldest first.

    Each is copied on the device as it is taken: it may be overwritten by the next step, as those
    of CUDA graphs are. Nothing waits for the device except ``all``.
    """

    def __init__(self, send: Callable[[torch.Tensor], Transfer]) -> None:
        self._send = send
        self._steps: list[tuple[int, bool]] = []
        self._kept: list[torch.Tensor] = []
        self._sent: tuple[list[tuple[int, bool]], Transfer] | None = None

    def take(self, step: int, loss: torch.Tensor, part: bool) -> None:
        """Keep the loss of ``step``."""
        loss = loss.detach()
        self._steps.append((step, part))
        self._kept.append(loss.clone() if loss.ndim == 0 else loss.float().mean())

    def arrived(self) -> list[Taken]:
        """Those that have come by now."""
        found: list[Taken] = []
        if self._sent is not None and self._sent[1].arrived():
            found = self._received()
        if self._sent is None and len(self._kept) >= TOGETHER:
            self._send_kept()
        return found

    def all(self) -> list[Taken]:
        """All that were taken and not handed out yet; waits for the device."""
        found = self._received()
        self._send_kept()
        return found + self._received()

    def _send_kept(self) -> None:
        if self._kept:
            device = self._kept[-1].device
            numbers = torch.stack([each.to(device, torch.float32) for each in self._kept])
            self._sent = self._steps, self._send(numbers)
            self._steps, self._kept = [], []

    def _received(self) -> list[Taken]:
        if self._sent is None:
            return []
        (steps, transfer), self._sent = self._sent, None
        numbers = transfer.numbers()
        return [Taken(step, loss, part) for (step, part), loss in zip(steps, numbers, strict=True)]


def send(numbers: torch.Tensor) -> Transfer:
    """Begin to copy ``numbers`` to the host."""
    return _Pinned(numbers) if numbers.is_cuda else _Waiting(numbers)


class _Pinned:
    """A copy into pinned memory, behind what the CUDA stream has to do."""

    def __init__(self, numbers: torch.Tensor) -> None:
        with torch.cuda.device(numbers.device):
            self._host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._host.copy_(numbers, non_blocking=True)
            self._done: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
            self._done.record()

    def arrived(self) -> bool:
        return bool(self._done.query())

    def numbers(self) -> list[float]:
        self._done.synchronize()
        return self._host.tolist()


class _Waiting:
    """Other devices are waited for."""

    def __init__(self, numbers: torch.Tensor) -> None:
        self._numbers = numbers

    def arrived(self) -> bool:
        return True

    def numbers(self) -> list[float]:
        return self._numbers.tolist()
