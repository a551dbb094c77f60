"""Gradients of a bare module, averaged over ranks: with a thread for every rank."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed import HashStore

from batchfinder.run.ranks import MetRanks, Wrapping
from batchfinder.run.ranks.agreed_step import AgreedStep
from batchfinder.run.ranks.group import met


class Partial:
    """A step that reaches the first layer on every rank, and the second on rank 0 alone."""

    updates_itself = False

    def __init__(self, rank: int) -> None:
        self.layers = [nn.Linear(2, 1, bias=False) for _ in range(3)]
        self.reaches = 2 - rank

    def modules(self) -> list[Any]:
        return list(self.layers)

    def parameters(self) -> list[nn.Parameter]:
        return [layer.weight for layer in self.layers]

    def forward_backward(self, batch: torch.Tensor, scale: float) -> torch.Tensor:
        loss = torch.stack([layer(batch).sum() for layer in self.layers[: self.reaches]]).sum()
        (scale * loss).backward()
        return loss.detach()


def on_ranks() -> tuple[list[Any], list[Partial], list[str]]:
    store, places = HashStore(), list[str]()
    steps, found = [Partial(rank) for rank in range(2)], list[Any]([None, None])

    def run(rank: int) -> None:
        ranks: MetRanks = met(
            store,
            rank,
            2,
            replicas=2,
            described={},
            meeting_seconds=5.0,
            answer_seconds=5.0,
        )
        tell: Any = ranks.tell
        ranks.tell = lambda where, value: (places.append(where), tell(where, value))[1]  # type: ignore[method-assign,assignment]
        step: Any = steps[rank]
        try:
            found[rank] = AgreedStep(step, ranks, Wrapping()).forward_backward(torch.ones(4, 2))
        except Exception as error:  # noqa: BLE001  # asserted on
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found, steps, places


def test_no_rank_begins_to_average_where_another_has_no_room_for_a_missing_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = list[torch.Tensor]()

    def no_room(like: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(torch, "zeros_like", no_room)
    monkeypatch.setattr(torch.distributed, "all_reduce", begun.append)
    found, _, _ = on_ranks()
    assert [type(each) for each in found] == [torch.OutOfMemoryError] * 2
    assert begun == []


def test_a_gradient_that_is_missing_on_one_rank_counts_as_zeros_and_costs_one_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda gradient: None)
    _, steps, places = on_ranks()
    assert len(places) == 4
    grads = [[parameter.grad for parameter in step.parameters()] for step in steps]
    assert [[each is None for each in own] for own in grads] == [[False, False, True]] * 2
    assert torch.equal(grads[1][1], torch.zeros(1, 2))
    monkeypatch.setattr(Partial, "modules", lambda self: [])
    monkeypatch.setattr(Partial, "parameters", lambda self: [self.layers[0].weight])
    _, _, without = on_ranks()
    assert len(without) == 2
