"""Every kind of loader at every size: rebuilt like a hand-built one, and itself left alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from table_of_loaders import CASES, SIZES, Case, build_step

from batchfinder.run.batches import reading, rebuild_loader, source_from
from batchfinder.run.step import step_from
from batchfinder.run.tree import leaves

_ids = [str(case) for case in CASES]


def epoch(loader: Any) -> list[Any]:
    """One epoch as plain values, under a seed of its own."""
    torch.manual_seed(21)
    with reading(loader) as batches:
        return [plain(batch) for batch in batches]


def plain(batch: Any) -> Any:
    return type(batch).__name__, [
        (path, leaf.tolist() if isinstance(leaf, torch.Tensor) else leaf)
        for path, leaf in leaves(batch)
    ]


def test_there_are_at_least_thirty() -> None:
    assert len(CASES) >= 30
    assert len(set(_ids)) == len(_ids)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES, ids=_ids)
def test_rebuilt_as_by_hand(case: Case, size: int) -> None:
    wanted = epoch(case.by_hand(size))
    assert wanted or "drop_last" in case.name
    assert epoch(rebuild_loader(case.make(4), size)) == wanted
    assert epoch(source_from(case.make(4)).rebuild(size)) == wanted


@pytest.mark.parametrize("case", CASES, ids=_ids)
def test_the_user_s_loader_is_left_alone(case: Case) -> None:
    untouched = case.make(4)
    wanted = [epoch(untouched), epoch(untouched)]
    loader = case.make(4)
    before = dict(getattr(loader, "__dict__", {}))
    numbers = torch.get_rng_state()
    source = source_from(loader)
    source.take(3)
    source.rewind(5)
    source.draw(3)
    for size in SIZES:
        with torch.random.fork_rng(), reading(source.rebuild(size)) as batches:
            next(iter(batches))
    assert torch.equal(torch.get_rng_state(), numbers)
    assert getattr(loader, "__dict__", {}) == before
    assert [epoch(loader), epoch(loader)] == wanted


@pytest.mark.parametrize("case", CASES, ids=_ids)
def test_fixed_batches_draws_and_counts(case: Case) -> None:
    source = source_from(case.make(4), allow_repeats=True)
    for size in SIZES:
        assert plain(source.take(size)) == plain(source.take(size))
        assert source.count(source.take(size)) == size
        assert source.count(source.ordinary(size)) == size
    assert source.count(source.draw(3)) == 3
    assert source.base_batch_size == 4


@pytest.mark.parametrize("case", CASES, ids=_ids)
def test_a_step_trains_on_it(case: Case) -> None:
    source = source_from(case.make(4), allow_repeats=True)
    step = step_from(**build_step(case.step), sample_batch=source.take(2))
    before = copy.deepcopy([p.detach() for p in step.parameters()])
    for size in (64, 3, 2 if "norm" in case.step else 1):
        step.zero_grad()
        loss = step.forward_backward(source.take(size))
        assert step.updates_itself or torch.isfinite(loss)
        step.update()
    moved = [not torch.equal(p, b) for p, b in zip(step.parameters(), before, strict=True)]
    assert any(moved)
