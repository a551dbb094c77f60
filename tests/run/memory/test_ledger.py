"""Bytes equal to those counted by hand."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from memory_cases import CPU, FLOAT

from batchfinder.run.memory.ledger import Ledger
from batchfinder.run.torch_internals.tensors import TorchDispatchMode, modes_here

KIB = 1024  # 256 floats


@contextmanager
def counting(*held: torch.Tensor, limit: int | None = None) -> Iterator[Ledger]:
    with Ledger(CPU, limit) as ledger:
        ledger.hold(held)
        yield ledger


def floats(count: int) -> torch.Tensor:
    return torch.zeros(count)


def test_an_allocation_counts_until_it_is_freed() -> None:
    with counting() as ledger:
        one = floats(256)
        two = floats(512)
        assert ledger.current == 3 * KIB
        del one
        assert ledger.current == 2 * KIB
        two = two + 1  # the sum is made before the old value goes
        assert (ledger.current, ledger.peak) == (2 * KIB, 4 * KIB)


VIEWS: dict[str, Callable[[torch.Tensor], Any]] = {
    "slice": lambda x: x[3:7],
    "transpose": lambda x: x.view(16, 16).t(),
    "expand": lambda x: x.view(1, 256).expand(1000, 256),
    "split": lambda x: x.split(16),
    "unbind": lambda x: x.unbind(),
    "detach": lambda x: x.detach(),
    "as_strided": lambda x: x.as_strided((2, 2), (1, 1)),
    "no copy": lambda x: x.contiguous(),
    "no cast": lambda x: x.to(torch.float32),
    "in place": lambda x: x.add_(1).mul_(2),
    "the same again": lambda x: torch.add(x, 1, out=x),
    "view of a view": lambda x: x[1:].view(-1)[2:],
    "real parts": lambda x: torch.view_as_complex(x.view(128, 2)).real,
    "numpy": lambda x: x.numpy(),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_costs_nothing(name: str) -> None:
    with counting() as ledger:
        base = floats(256)
        view = VIEWS[name](base)
        assert ledger.current == KIB, view
        assert ledger.peak == KIB


COPIES: dict[str, tuple[Callable[[torch.Tensor], Any], int]] = {
    "clone": (lambda x: x.clone(), KIB),
    "cast to half": (lambda x: x.half(), KIB // 2),
    "comparison": (lambda x: x > 0, KIB // 4),
    "largest, with its place": (lambda x: x.view(16, 16).max(dim=1), 16 * (4 + 8)),
    "sort": (lambda x: x.sort(), 256 * (4 + 8)),
    "expanded, then copied": (lambda x: x.view(1, 256).expand(4, 256).contiguous(), 4 * KIB),
    "stack": (lambda x: torch.stack([x, x, x]), 3 * KIB),
    "sum": (lambda x: x.sum(), FLOAT),
    "indexing by a list": (lambda x: x[torch.arange(10)], 10 * FLOAT),
    "out=": (lambda x: torch.exp(x, out=torch.empty(256)), KIB),
    "in another layout": (lambda x: x.view(1, 4, 8, 8).to(memory_format=torch.channels_last), KIB),
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_costs_its_bytes(name: str) -> None:
    make, expected = COPIES[name]
    with counting() as ledger:
        base = floats(256)
        copy = make(base)
        assert ledger.current == KIB + expected, copy


def test_the_last_view_keeps_the_storage() -> None:
    with counting() as ledger:
        view = floats(256)[:1]
        assert ledger.current == KIB
        del view
        assert ledger.current == 0


def test_resize_of_a_tensor() -> None:
    with counting() as ledger:
        tensor = floats(256)
        tensor.resize_(1024)
        assert ledger.current == 4 * KIB
        tensor.resize_(10)  # a smaller size keeps the storage
        assert ledger.current == 4 * KIB


def test_resize_of_a_storage_as_sharded_training_does_it() -> None:
    with counting() as ledger:
        tensor = floats(256)
        tensor.untyped_storage().resize_(0)
        assert ledger.current == 0
        tensor.untyped_storage().resize_(2 * KIB)
        assert (ledger.current, ledger.peak) == (2 * KIB, 2 * KIB)
    assert "resize_" not in vars(torch.UntypedStorage)


def test_resize_of_a_storage_beyond_the_limit() -> None:
    with counting(limit=2 * KIB):
        tensor = floats(256)
        with pytest.raises(torch.OutOfMemoryError):
            tensor.untyped_storage().resize_(3 * KIB)


def test_out_of_another_size() -> None:
    with counting() as ledger, pytest.warns(UserWarning, match="resize"):
        out = floats(1)
        torch.add(floats(256), 1, out=out)
        assert ledger.current == KIB


def test_set_gives_a_tensor_another_storage() -> None:
    with counting() as ledger:
        tensor, other = floats(256), floats(512)
        tensor.set_(other)
        assert ledger.current == 2 * KIB
        del other
        assert ledger.current == 2 * KIB
        tensor.data = floats(1)
        assert ledger.current == FLOAT


def test_a_reference_cycle_counts_until_it_is_collected() -> None:
    gc.disable()
    try:
        with counting() as ledger:
            cycle: list[Any] = [floats(256)]
            cycle.append(cycle)
            del cycle
            assert ledger.current == KIB
            gc.collect()
            assert ledger.current == 0
    finally:
        gc.enable()


def test_what_is_held_counts_once() -> None:
    weight = torch.nn.Parameter(floats(256))
    with counting(weight, weight, weight[:10], weight.detach()) as ledger:
        assert ledger.current == KIB


def test_of_a_storage_only_what_is_held_is_charged() -> None:
    """A batch is a slice of a data set; a flat storage of parameters is held whole."""
    data = floats(1000)
    with counting(data[:256]) as ledger:
        assert ledger.current == KIB
        data[:256] + 1
        assert (ledger.current, ledger.peak) == (KIB, 2 * KIB)
    with counting(data[:256]) as ledger:
        wide = data[:1].expand(1000) + data[:256].view(1, 256).expand(2, 256).sum()
        assert ledger.current == KIB + 1000 * FLOAT, wide
    flat = floats(512)
    with counting(flat[:256], flat[256:], flat[:256]) as ledger:
        assert ledger.current == 2 * KIB


def test_a_tensor_made_before_counts_once_it_is_met() -> None:
    before = floats(256)
    with Ledger(CPU) as ledger:
        result = before + 1
        assert ledger.current == 2 * KIB
        assert result.sum() == 256
    with Ledger(CPU, charge_found=False) as ledger:
        result = before + 1
        view = before[1:]
        assert ledger.current == KIB, view


def test_a_sample_of_a_data_set_made_before_costs_the_sample() -> None:
    data = torch.zeros(1000, 256)
    with Ledger(CPU) as ledger:
        batch = torch.stack([data[index] for index in range(4)])
        assert ledger.current <= 5 * KIB and ledger.peak <= 5 * KIB, batch
        whole = data.sum()
        assert ledger.current == 1004 * KIB + FLOAT, whole


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_sparse_tensors_count_by_their_parts() -> None:
    with counting() as ledger:
        dense = torch.eye(16)
        before = ledger.current
        sparse = dense.to_sparse()
        assert ledger.current - before == 16 * (2 * 8 + FLOAT), sparse
        before = ledger.current
        rows = dense.to_sparse_csr()
        # since torch 2.13 or so its columns are a view of the pairs that it was made from
        parts = (rows.crow_indices(), rows.col_indices(), rows.values())
        truth = {part.untyped_storage().data_ptr(): part for part in parts}.values()
        assert ledger.current - before == sum(part.untyped_storage().nbytes() for part in truth)
        assert ledger.current - before >= 17 * 8 + 16 * 8 + 16 * FLOAT


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(inputs.clone(), torch.zeros(512))
        return inputs * 2

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        one, two = ctx.saved_tensors
        return gradients[0] * 2 + (one.sum() + two.sum()) * 0


def test_what_a_custom_function_saves_counts_until_backward() -> None:
    inputs = torch.nn.Parameter(floats(256))
    with counting(inputs) as ledger:
        output = Doubled.apply(inputs)
        assert ledger.current == KIB + KIB + 2 * KIB + KIB
        output.sum().backward()
        del output
        assert ledger.current == 2 * KIB  # the input and its gradient


def test_random_numbers_strings_and_none_pass_through() -> None:
    with counting() as ledger:
        torch.rand(256, generator=torch.Generator().manual_seed(1))
        assert torch.ops.aten.add.Tensor(floats(1), 2).item() == 2
        assert ledger.peak == KIB


def test_the_error_is_the_real_one_and_says_the_bytes() -> None:
    with counting(limit=3000) as ledger:
        kept = floats(256)
        with pytest.raises(torch.OutOfMemoryError) as caught:
            floats(1000)
        assert isinstance(caught.value, torch.cuda.OutOfMemoryError)
        text = str(caught.value)
        assert "4000 bytes, in aten.zeros" in text and "out of memory" in text
        assert "in use 1024 bytes of the limit of 3000 bytes" in text
        assert ledger.peak == 5024
        del caught
        assert ledger.current == KIB, kept


def test_exactly_the_limit_is_allowed() -> None:
    with counting(limit=KIB):
        floats(256)
    with counting(limit=KIB - 1), pytest.raises(torch.OutOfMemoryError):
        floats(256)


def test_what_is_held_may_be_too_much_already() -> None:
    weight = floats(256)
    with pytest.raises(torch.OutOfMemoryError, match="what is held"), counting(weight, limit=1000):
        pass
    assert "resize_" not in vars(torch.UntypedStorage)


def test_ledgers_nest() -> None:
    with counting() as outer:
        one = floats(256)
        with counting() as inner:
            two = floats(256)
            two.untyped_storage().resize_(2 * KIB)
            assert (outer.current, inner.current) == (3 * KIB, 2 * KIB)
        del two
        assert (outer.current, inner.current) == (KIB, 0), one
    assert "resize_" not in vars(torch.UntypedStorage)


def test_a_ledger_forgets_and_is_freed() -> None:
    with counting() as ledger:
        kept = floats(256)
    ledger.forget()
    assert (ledger.current, ledger.peak) == (0, KIB), kept
    del kept
    assert ledger.current == 0


def test_a_ledger_that_does_not_listen_counts_no_new_bytes() -> None:
    with counting() as ledger:
        one = floats(256)
        ledger.listening = False
        two = floats(256)
        del one
        ledger.listening = True
        assert ledger.current == 0
        two += 1
        assert ledger.current == KIB


def test_a_distributed_tensor_is_its_local_part() -> None:
    """What it is made of names a mesh beside the tensor."""
    from torch import distributed
    from torch.distributed.tensor import DTensor, Replicate, init_device_mesh

    from batchfinder.run.torch_internals.tensors import dense_parts

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        local = torch.zeros(1000)
        shared = DTensor.from_local(local, mesh, [Replicate()])
        assert [part.untyped_storage()._cdata for part in dense_parts(shared)] == [
            local.untyped_storage()._cdata
        ]
        with counting(shared) as ledger:
            assert ledger.current == 1000 * FLOAT
    finally:
        distributed.destroy_process_group()


class Open(TorchDispatchMode):
    """A mode of the user's."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def held_open(times: int = 2) -> Iterator[torch.Tensor]:
    """A reader that keeps a mode of its own open from one sample to the next."""
    with Open():
        for _ in range(times):
            yield torch.zeros(256)


@pytest.mark.parametrize("opened", [True, False], ids=["counted", "paused"])
@pytest.mark.parametrize("closed", [True, False], ids=["counted", "paused"])
def test_a_mode_of_the_users_may_stay_open_across_a_yield(opened: bool, closed: bool) -> None:
    """Opened and closed where it is counted or where it is not: the ledger counts on."""
    with counting() as ledger:
        reader = held_open()
        with ledger.counting(opened):
            sample = next(reader)
        first = floats(512)
        expected = 2 * KIB + (KIB if opened else 0)
        assert ledger.current == expected
        with ledger.counting(False):
            passing = floats(256)
        assert ledger.current == expected
        with ledger.counting(closed):
            reader.close()
        second = floats(512)
        assert ledger.current == expected + 2 * KIB
        del sample, first, passing, second
    assert modes_here() == []


def test_a_mode_that_is_open_at_the_end_is_left_open() -> None:
    with counting() as ledger:
        reader = held_open()
        next(reader)
    assert [type(mode) for mode in modes_here()] == [Open]
    floats(256)
    assert ledger.current == 0
    reader.close()
    assert modes_here() == []
