"""Tensors whose storage was freed, as sharded training does: a shape, and nothing to read."""

from __future__ import annotations

import torch

from batchfinder.run.reachable import reached_from
from batchfinder.run.state import preserved
from batchfinder.run.state.part import digest
from batchfinder.run.state.plain import copied, put_back


def freed() -> torch.Tensor:
    tensor = torch.ones(1000)
    tensor.untyped_storage().resize_(0)
    return tensor


def test_a_freed_tensor_is_neither_read_nor_written() -> None:
    tensor = freed()
    assert put_back(tensor, copied(tensor)) is tensor
    assert digest([("t", tensor)]) == digest([("t", freed())])
    assert tensor.untyped_storage().nbytes() == 0


def test_one_that_a_step_reaches_is_left_alone() -> None:
    tensor, model = freed(), torch.nn.Linear(2, 2)

    def train_step(batch: object) -> torch.Tensor:
        return tensor.sum()

    with preserved(model, reaching=[train_step]) as snapshot:
        snapshot.restore()
    assert snapshot.differences() == ()


def test_what_torch_distributed_keeps_for_itself_is_not_entered() -> None:
    class State:
        def __init__(self) -> None:
            self.gathered = freed()

        def hook(self, *given: object) -> None: ...

    State.__module__ = "torch.distributed.fsdp.state"
    model = torch.nn.Linear(2, 2)
    model.register_forward_pre_hook(State().hook)
    assert not [each for each in reached_from([model]).tensors if each.numel() == 1000]
