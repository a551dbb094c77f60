"""Calls over trainings of every kind leave objects, compiled code and storages as they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from zoo import ZOO, Kept, states

import batchfinder as bf
from batchfinder.progress import silent
from batchfinder.run.trial import tensors_in

SMALL: dict[str, Any] = {"memory_limit": "8MiB", "at_most": 16, "observe": silent}


def largest(kept: Kept) -> None:
    assert bf.max_batch_size(kept.training, **SMALL).max_batch_size == 16


def whole(kept: Kept) -> None:
    report = bf.find_batch_size(kept.training, budget_seconds=2, **SMALL)
    assert report.state_restored, report.caveats


def noise(kept: Kept) -> None:
    few = bf.MicroBatchVariance(samples=64)
    if kept.has_noise:
        bf.gradient_noise_scale(kept.training, noise=few, observe=silent)
        return
    with pytest.raises(bf.BatchFinderError, match="runs the backward pass and the update itself"):
        bf.gradient_noise_scale(kept.training, noise=few, observe=silent)


def fits(kept: Kept) -> None:
    bf.assert_fits(kept.training, batch_size=8, memory="8MiB")


CALLS: tuple[Callable[[Kept], None], ...] = (largest, whole, noise, fits)


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def held(kept: Kept) -> list[torch.Tensor]:
    return [
        each
        for holder in kept.holders
        for each in tensors_in(holder.state_dict())
        if each.device.type == "cpu"
    ]


def check(name: str, *calls: Callable[[Kept], None]) -> None:
    """The user's own steps after the calls are those of a training without any call."""
    kept, twin = ZOO[name](), ZOO[name]()
    for each in (kept, twin):  # in the midst of a training, compiled what is to be compiled
        torch.manual_seed(5)
        each.own_step()
        each.own_step()
    before = states(kept)
    storages = [each.untyped_storage().data_ptr() for each in held(kept)]
    resizable = [each.untyped_storage().resizable() for each in held(kept)]
    for call in calls:
        call(kept)
        assert equal(states(kept), before), f"{call.__name__} changed a state"
        for seen, storage in zip(held(kept), resizable, strict=True):
            assert seen.untyped_storage().resizable() == storage
        assert [each.untyped_storage().data_ptr() for each in held(kept)] == storages
    torch.manual_seed(6)
    after = [kept.own_step() for _ in range(3)]
    torch.manual_seed(6)
    assert equal(after, [twin.own_step() for _ in range(3)])
    assert equal(states(kept), states(twin))


def check_compiled(name: str, *calls: Callable[[Kept], None]) -> None:
    """No graph of the user's is made anew, and each runs."""
    torch._dynamo.reset()  # what other tests compiled counts towards a limit of the process
    kept = ZOO[name]()
    kept.own_step()
    for call in calls:
        call(kept)
        compiled, ran = kept.graphs
        kept.own_step()
        assert kept.graphs == [compiled, ran + 1], f"after {call.__name__}"


@pytest.mark.parametrize("name", ZOO)
def test_a_search_leaves_a_training_as_it_was(name: str) -> None:
    check(name, largest)


@pytest.mark.parametrize("name", ["compiled_model", "compiled_loss"])
def test_a_search_leaves_compiled_code_as_it_was(name: str) -> None:
    check_compiled(name, largest)


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_every_call_leaves_a_training_as_it_was(name: str) -> None:
    check(name, *CALLS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compiled_model", "compiled_loss"])
def test_every_call_leaves_compiled_code_as_it_was(name: str) -> None:
    check_compiled(name, *CALLS)


@pytest.mark.slow
def test_every_call_over_all_of_them_in_one_process() -> None:
    trainings = {name: make() for name, make in ZOO.items()}
    for kept in trainings.values():
        kept.own_step()
    before = {name: states(kept) for name, kept in trainings.items()}
    done = 0
    while done < len(trainings) * len(CALLS):
        for name, kept in trainings.items():
            CALLS[(done + done // len(trainings)) % len(CALLS)](kept)  # each gets every call
            done += 1
            assert equal(states(kept), before[name]), (name, done)
    for name, kept in trainings.items():
        twin = ZOO[name]()
        twin.own_step()
        torch.manual_seed(6)
        after = kept.own_step()
        torch.manual_seed(6)
        assert equal(after, twin.own_step()), name
