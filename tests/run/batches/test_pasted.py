"""The user's loader as text: what is pasted makes the same loader at another size."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from batchfinder.run.batches import loader_arguments

ROWS = TensorDataset(torch.arange(64.0))


def collate(rows):
    return torch.stack([row for (row,) in rows])


def own_order():
    return WeightedRandomSampler(torch.ones(64), 64)


LOADERS = {
    "in order": {},
    "shuffled": {"shuffle": True},
    "shuffled by a generator": {"shuffle": True, "generator": torch.Generator()},
    "drop_last": {"shuffle": True, "drop_last": True},
    "workers": {"num_workers": 2, "persistent_workers": True, "pin_memory": True},
    "prefetched": {"num_workers": 1, "prefetch_factor": 4},
    "own functions": {"collate_fn": collate, "worker_init_fn": print, "timeout": 0},
    "own sampler": {"sampler": own_order()},
}
KEPT = (
    *("num_workers", "drop_last", "collate_fn", "pin_memory", "persistent_workers", "timeout"),
    *("prefetch_factor", "generator", "worker_init_fn"),
)


@pytest.mark.parametrize("name", LOADERS)
def test_what_is_pasted_makes_the_same_loader(name: str) -> None:
    loader = DataLoader(ROWS, batch_size=4, **LOADERS[name])
    given = loader_arguments(loader)
    assert given is not None
    words = "".join(f", {key}={value}" for key, value in given)
    names = {"DataLoader": DataLoader, "dataset": ROWS, "loader": loader}
    pasted = eval(f"DataLoader(dataset, batch_size=16{words})", names)
    assert pasted.batch_size == 16
    assert all(getattr(pasted, each) == getattr(loader, each) for each in KEPT)
    assert type(pasted.sampler) is type(loader.sampler)
    assert {key for key, _ in given} == {key for key in LOADERS[name] if key != "timeout"}


def test_no_single_line_says_how_batches_are_made_by_the_users_sampler() -> None:
    batches = torch.utils.data.BatchSampler(range(64), 4, drop_last=False)

    class Own(torch.utils.data.BatchSampler):
        pass

    assert loader_arguments(DataLoader(ROWS, batch_sampler=Own(range(64), 4, False))) is None
    assert loader_arguments(DataLoader(ROWS, batch_sampler=batches)) is None
    assert loader_arguments([torch.ones(4)]) is None
