"""The ledger: which storages are alive, how many bytes they take, and the limit they may not pass.

A dispatch mode sees every operator, forward and backward, before autograd's own book-keeping is
undone, so that saved activations, gradients and temporaries between operators are all counted.
A storage is counted once, however many views it has, until it is freed.

Not seen: memory that a kernel takes and frees inside one operator, and work in other Python
threads. Compiled code is counted as it was written: it runs uncompiled meanwhile.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import torch

from batchfinder.run.switches import uncompiled
from batchfinder.run.torch_internals.storages import resizes_followed, storage_key
from batchfinder.run.torch_internals.tensors import (
    TorchDispatchMode,
    dense_parts,
    enter_below_later_modes,
    leave_below_later_modes,
    modes_here,
)
from batchfinder.units import format_bytes

__all__ = ["Ledger"]

_MADE, _FOUND, _VIEWED = range(3)
"""How an operator met a tensor: as a result, as an argument, as a view that it made."""


class _Entry(weakref.ref[torch.UntypedStorage]):
    """One storage alive: its key, its size when last looked at, and what it is charged."""

    __slots__ = ("charged", "key", "size")

    key: int
    size: int
    charged: int


class Ledger(TorchDispatchMode):
    """Bytes of live storages on one kind of device, now and at the peak.

    Args:
        device: only storages on this kind of device are counted.
        limit: bytes above which ``torch.OutOfMemoryError`` is raised, after the operator that
            passed it, whose result is dropped; ``None`` for no limit.
        charge_found: whether a storage that is not new but only met as an operator's input (a
            tensor made before, and not handed to ``hold``) is charged.
    """

    def __init__(
        self, device: torch.device, limit: int | None = None, *, charge_found: bool = True
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's modes are not annotated
        self._limit = math.inf if limit is None else limit
        self._peak = self._noted = 0  # up to the latter a growth changes neither peak nor limit
        self.current = self.largest = 0
        self.listening = True
        self._type = device.type
        self._is_cpu = device.type == "cpu"  # which a tensor can tell sooner than its device
        self._charge_found = charge_found
        self._entries: dict[int, _Entry] = {}
        self._freed = _when_freed(self)
        self._entered: list[ExitStack] = []

    @property
    def limit(self) -> int | None:
        """May be set at any time; the next growth is held against it."""
        return None if self._limit == math.inf else int(self._limit)

    @limit.setter
    def limit(self, limit: int | None) -> None:
        self._limit = math.inf if limit is None else limit
        self._noted = int(min(self._peak, self._limit))

    @property
    def peak(self) -> int:
        """The most that was in use or asked for: above the limit where a growth failed."""
        return self._peak

    @peak.setter
    def peak(self, peak: int) -> None:
        self._peak = peak
        self._noted = int(min(peak, self._limit))

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count tensors that were there before. Of a storage, only what they show is charged.

        So a batch that is a slice of a data set on the host costs what its copy on a device would.
        """
        shown: dict[int, tuple[torch.UntypedStorage, dict[Any, int]]] = {}
        for tensor in tensors:
            for part in dense_parts(tensor):
                if part.device.type == self._type:
                    storage = part.untyped_storage()
                    place = (part.storage_offset(), part.shape, part.stride())
                    _, places = shown.setdefault(storage_key(storage), (storage, {}))
                    places[place] = _bytes_shown(part)
        for key, (storage, places) in shown.items():
            if key not in self._entries:
                self._add(key, storage, min(sum(places.values()), storage.nbytes()))
        self._check("what is held before the step", self.current, self.current)

    def forget(self) -> None:
        """Count nothing any more; the peak stays."""
        self._entries.clear()
        self.current = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.listening:
            before = self.current
            if getattr(func, "is_view", False):
                self._look(result, _VIEWED)
            else:
                for value in args:
                    self._look(value, _FOUND)
                if kwargs:
                    self._look(kwargs, _FOUND)
                self._look(result, _MADE)
            if self.current > self._noted and not self._fits(self.current, self.current - before):
                message = self._message(func, self.current, self.current - before)
                # the error keeps this frame; a real allocation that fails takes nothing
                args, kwargs, result, value = (), {}, None, None
                raise torch.OutOfMemoryError(message)
        return result

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True  # else the compiler would give up what it meets under this mode

    def __enter__(self) -> Ledger:
        # Compiled code runs as it was written, operator by operator, so that it can be counted.
        with ExitStack() as stack:
            stack.enter_context(uncompiled())
            stack.enter_context(resizes_followed(self))
            enter_below_later_modes(self, modes_here())
            self._entered.append(stack.pop_all())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        leave_below_later_modes(self)
        self._entered.pop().close()

    @contextmanager
    def counting(self, now: bool) -> Iterator[None]:
        """Whether what runs inside is counted; else it does not even pass through this mode."""
        before, self.listening = self.listening, now
        modes = modes_here()
        with ExitStack() as stack:
            stack.callback(setattr, self, "listening", before)
            if not now and modes[-1:] == [self]:
                leave_below_later_modes(self)
                stack.callback(enter_below_later_modes, self, modes)
            elif now and self not in modes:
                enter_below_later_modes(self, modes)
                stack.callback(leave_below_later_modes, self)
            yield

    def before_resize(self, storage: Any, size: int) -> None:
        entry = self._entries.get(storage_key(storage)) if self.listening else None
        if entry is not None:
            asked = size - entry.charged
            self._check("resize_ of a storage", self.current + asked, asked)

    def after_resize(self, storage: Any) -> None:
        entry = self._entries.get(storage_key(storage)) if self.listening else None
        if entry is not None:
            self._recharge(entry, storage.nbytes())

    def _look(self, value: Any, how: int) -> None:
        """Count what ``value`` is made of. Runs for every operator: the usual case comes first."""
        kind = type(value)
        if kind is torch.Tensor or kind is torch.nn.Parameter:
            if value.is_cpu if self._is_cpu else value.device.type == self._type:
                self._look_at_tensor(value, how)
        elif kind is tuple or kind is list:
            for part in value:
                self._look(part, how)
        elif isinstance(value, torch.Tensor):
            if value.device.type == self._type:
                for dense in dense_parts(value):
                    self._look_at_tensor(dense, how)
        elif isinstance(value, Mapping):
            self._look(list(value.values()), how)
        elif isinstance(value, tuple | list):
            self._look(list(value), how)

    def _look_at_tensor(self, tensor: torch.Tensor, how: int) -> None:
        try:
            storage = tensor.untyped_storage()
        except NotImplementedError:  # a sparse tensor has none of its own
            for dense in dense_parts(tensor):
                self._look_at_tensor(dense, how)
            return
        key = storage_key(storage)
        entry = self._entries.get(key)
        if entry is None:
            self._add(key, storage, self._charge(tensor, storage, how))
        elif entry.size != storage.nbytes():
            self._recharge(entry, storage.nbytes())
        elif entry.charged < entry.size and self._charge_found:
            shown = max(entry.charged, min(_bytes_shown(tensor), entry.size))
            self.current += shown - entry.charged
            entry.charged = shown

    def _charge(self, tensor: torch.Tensor, storage: torch.UntypedStorage, how: int) -> int:
        """Of a storage first met now.

        One that is only viewed was there before: a sample of a data set costs the sample.
        """
        if how != _MADE and not self._charge_found:
            return 0
        if how == _VIEWED:
            return min(_bytes_shown(tensor), storage.nbytes())
        return storage.nbytes()

    def _add(self, key: int, storage: torch.UntypedStorage, charged: int) -> None:
        entry = _Entry(storage, self._freed)
        entry.key, entry.size, entry.charged = key, storage.nbytes(), charged
        self._entries[key] = entry
        self.current += charged
        self.largest = max(self.largest, charged)

    def _recharge(self, entry: _Entry, size: int) -> None:
        """A storage has another size than before; a growth beyond the limit is not charged."""
        asked = size - entry.charged
        self._check("resize of a tensor", self.current + asked, asked)
        self.current += asked
        entry.size = entry.charged = size

    def _check(self, cause: Any, reached: int, asked: int) -> None:
        if not self._fits(reached, asked):
            raise torch.OutOfMemoryError(self._message(cause, reached, asked))

    def _fits(self, reached: int, asked: int) -> bool:
        """Note how far it got. Only a growth can fail."""
        if reached > self._peak:
            self.peak = reached
        return asked <= 0 or reached <= self._limit

    def _message(self, cause: Any, reached: int, asked: int) -> str:
        limit = int(self._limit)
        return (
            f"{self._type.upper()} out of memory under a limit set by batchfinder. Tried to "
            f"allocate {format_bytes(asked)} ({asked} bytes, in {cause}); "
            f"in use {reached - asked} bytes of the limit of {limit} bytes "
            f"({format_bytes(limit)})"
        )


def _bytes_shown(tensor: torch.Tensor) -> int:
    """How much of its storage a tensor shows; what is expanded shows each element once."""
    span = 1 + sum((n - 1) * far for n, far in zip(tensor.shape, tensor.stride(), strict=True))
    return max(min(tensor.numel(), span), 0) * tensor.element_size()


def _when_freed(ledger: Ledger) -> Callable[[_Entry], None]:
    """What an entry calls when its storage is freed; it does not keep the ledger alive."""
    weak = weakref.ref(ledger)

    def freed(entry: _Entry) -> None:
        owner = weak()
        if owner is not None and owner._entries.get(entry.key) is entry:
            del owner._entries[entry.key]
            owner.current -= entry.charged

    return freed
