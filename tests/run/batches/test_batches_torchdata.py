"""torchdata's StatefulDataLoader: rebuilt by size, its count of batches never carried over."""

from __future__ import annotations

from typing import Any

import loader_cases as cases
import pytest
import torch

from batchfinder.run.batches import reading, rebuild_loader, source_from

torchdata = pytest.importorskip("torchdata.stateful_dataloader")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torchdata")

OPTIONS: list[dict[str, Any]] = [
    {},
    {"shuffle": True},
    {"shuffle": True, "generator": 3},
    {"shuffle": True, "num_workers": 1, "snapshot_every_n_steps": 3},
    {"drop_last": True},
]


def make(size: int, options: dict[str, Any]) -> Any:
    torch.manual_seed(5)  # its sampler draws its seed when it is built
    if "generator" in options:
        options = {**options, "generator": torch.Generator().manual_seed(3)}
    return torchdata.StatefulDataLoader(cases.Rows(70), batch_size=size, **options)


def epoch(loader: Any) -> list[Any]:
    torch.manual_seed(21)
    with reading(loader) as batches:
        return [(x.tolist(), y.tolist()) for x, y in batches]


@pytest.mark.parametrize("size", [1, 3, 64])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_rebuilt_as_by_hand(options: dict[str, Any], size: int) -> None:
    wanted = epoch(make(size, options))
    rebuilt = rebuild_loader(make(4, options), size)
    assert type(rebuilt) is torchdata.StatefulDataLoader
    assert epoch(rebuilt) == wanted
    assert epoch(source_from(make(4, options)).rebuild(size)) == wanted


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_loader_in_the_middle_of_an_epoch_goes_on_as_if_nothing_had_been(
    options: dict[str, Any],
) -> None:
    def second_half(disturb: bool) -> list[Any]:
        loader = make(4, options)
        torch.manual_seed(1)
        with reading(loader) as batches:
            next(batches)
            state = loader.state_dict()
            if disturb:
                with torch.random.fork_rng(), reading(source_from(loader).rebuild(5)) as others:
                    next(others)
            assert str(loader.state_dict()) == str(state)
            return [x.tolist() for x, _ in batches]

    assert second_half(disturb=True) == second_half(disturb=False)


def test_one_whose_state_was_asked_for_is_rebuilt_from_the_start() -> None:
    loader = make(4, {})
    loader.state_dict()
    assert epoch(rebuild_loader(loader, 10)) == epoch(make(10, {}))
