"""Losses that lie on a device, fetched several at a time without waiting for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import torch

from batchfinder.monitor.losses import Taken

__all__ = ["TOGETHER", "DeviceLosses", "Transfer", "transfer_from"]

TOGETHER = 8
"""Losses that are fetched together: one that is not finite is known after so many steps, and
those that the device lies behind."""


class Transfer(Protocol):
    """A way for a few numbers from a device to the host, used again and again."""

    def send(self, numbers: torch.Tensor) -> None:
        """Begin to copy ``numbers``."""
        ...

    def arrived(self) -> bool:
        """Whether they can be had without waiting."""
        ...

    def numbers(self) -> list[float]:
        """The numbers; waits for the device if need be."""
        ...


class _Buffer:
    """Losses side by side on their device, and their way to the host."""

    def __init__(self, device: torch.device, transfer: Transfer) -> None:
        self.device, self.transfer = device, transfer
        self.numbers = torch.zeros(TOGETHER, device=device)
        self.places = list(self.numbers.unbind())
        self.taken: list[tuple[int, bool]] = []

    def losses(self) -> list[Taken]:
        taken, self.taken = self.taken, []
        numbers = self.transfer.numbers()
        return [Taken(step, loss, part) for (step, part), loss in zip(taken, numbers, strict=False)]


class DeviceLosses:
    """Keeps the losses of a device and hands them out as numbers, oldest first.

    Each is copied on the device as it is taken: it may be overwritten by the next step, as those
    of CUDA graphs are. Nothing waits for the device except ``all``.
    """

    def __init__(self, transfer_from: Callable[[torch.device], Transfer]) -> None:
        self._transfer_from = transfer_from
        self._filling: _Buffer | None = None
        self._sent: deque[_Buffer] = deque()
        self._free: list[_Buffer] = []

    def take(self, step: int, loss: torch.Tensor, part: bool) -> None:
        """Keep the loss of ``step``."""
        loss = loss.detach()
        buffer = self._filling
        if buffer is None or buffer.device != loss.device:
            buffer = self._begin(loss.device)
        place = buffer.places[len(buffer.taken)]
        place.copy_(loss if loss.ndim == 0 else loss.float().mean())
        buffer.taken.append((step, part))
        if len(buffer.taken) == TOGETHER:
            self._send()

    def arrived(self) -> list[Taken]:
        """Those that have come by now."""
        found: list[Taken] = []
        while self._sent and self._sent[0].transfer.arrived():
            found += self._received()
        return found

    def all(self) -> list[Taken]:
        """All that were taken and not handed out yet; waits for the device."""
        self._send()
        found: list[Taken] = []
        while self._sent:
            found += self._received()
        return found

    def _begin(self, device: torch.device) -> _Buffer:
        self._send()
        free = [buffer for buffer in self._free if buffer.device == device]
        buffer = free[0] if free else _Buffer(device, self._transfer_from(device))
        self._free = [other for other in self._free if other is not buffer]
        self._filling = buffer
        return buffer

    def _send(self) -> None:
        if self._filling is not None:
            self._filling.transfer.send(self._filling.numbers)
            self._sent.append(self._filling)
            self._filling = None

    def _received(self) -> list[Taken]:
        buffer = self._sent.popleft()
        self._free.append(buffer)
        return buffer.losses()


def transfer_from(device: torch.device) -> Transfer:
    """The way from ``device``."""
    return _Pinned(device) if device.type == "cuda" else _Waiting()


class _Pinned:
    """A copy into pinned memory, behind what the CUDA stream has to do."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._host = torch.zeros(TOGETHER, pin_memory=True)
        self._done: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's

    def send(self, numbers: torch.Tensor) -> None:
        self._host.copy_(numbers, non_blocking=True)
        self._done.record(torch.cuda.current_stream(self._device))

    def arrived(self) -> bool:
        return bool(self._done.query())

    def numbers(self) -> list[float]:
        self._done.synchronize()
        return self._host.tolist()


class _Waiting:
    """Other devices are waited for."""

    def __init__(self) -> None:
        self._sent = torch.zeros(0)

    def send(self, numbers: torch.Tensor) -> None:
        self._sent = numbers

    def arrived(self) -> bool:
        return True

    def numbers(self) -> list[float]:
        return self._sent.tolist()
