"""The patch of storages' resize_: safe with threads, gone when the last listener goes."""

from __future__ import annotations

import threading
from typing import Any

import torch

from batchfinder.run.memory.ledger import Ledger
from batchfinder.run.torch_internals.storages import resizes_followed

CPU = torch.device("cpu")


class Heard:
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def before_resize(self, storage: Any, size: int) -> None:
        self.sizes.append(size)

    def after_resize(self, storage: Any) -> None: ...


def is_patched() -> bool:
    return "resize_" in vars(torch.UntypedStorage)


def test_listeners_come_and_go_in_any_order() -> None:
    first, second = Heard(), Heard()
    one, two = resizes_followed(first), resizes_followed(second)
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    torch.zeros(2).untyped_storage().resize_(16)
    assert (first.sizes, second.sizes) == ([], [16])
    two.__exit__(None, None, None)
    assert not is_patched()


def test_two_interleaved_limits_in_two_threads_leave_no_patch() -> None:
    entered, left = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def other() -> None:
        try:
            with Ledger(CPU, 10**6):
                entered.set()
                left.wait(10)
                torch.zeros(8).untyped_storage().resize_(64)
        except BaseException as error:
            errors.append(error)
            raise

    thread = threading.Thread(target=other)
    with Ledger(CPU, 10**6):
        thread.start()
        assert entered.wait(10)
    left.set()
    thread.join()
    assert not errors
    assert not is_patched()
    torch.zeros(8).untyped_storage().resize_(64)


def test_a_patch_of_somebody_else_s_stays() -> None:
    seen: list[int] = []

    heard = Heard()
    with resizes_followed(heard):
        ours = torch.UntypedStorage.resize_
        torch.UntypedStorage.resize_ = lambda s, n: (seen.append(n), ours(s, n))[1]
        torch.zeros(2).untyped_storage().resize_(16)
    try:
        torch.zeros(2).untyped_storage().resize_(32)  # through both, of which one is silent
        assert (heard.sizes, seen) == ([16], [16, 32])
    finally:
        del torch.UntypedStorage.resize_
