"""The arguments that a user's ``DataLoader`` was made with, as text to paste."""

from __future__ import annotations

from typing import Any

from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
    default_convert,
)

from batchfinder.run.torch_internals.objects import draws_all

__all__ = ["loader_arguments"]

_PLAIN = ("num_workers", "pin_memory", "timeout", "prefetch_factor", "persistent_workers")
_OBJECTS = ("worker_init_fn", "multiprocessing_context", "generator")


def loader_arguments(loader: Any) -> tuple[tuple[str, str], ...] | None:
    """Names and values of all but the dataset and the batch size, defaults left out.

    Objects are taken from the user's loader: ``collate_fn=loader.collate_fn``. ``None`` where one
    ``DataLoader(...)`` says not enough: another loader, or batches by a sampler of the user's own.
    """
    if type(loader) is not DataLoader or loader.batch_size is None:
        return None
    given = [*_order(loader)]
    if loader.drop_last:
        given.append(("drop_last", "True"))
    defaults = {"timeout": 0, "num_workers": 0, "pin_memory": False, "persistent_workers": False}
    if loader.num_workers:
        defaults["prefetch_factor"] = 2
    for name in _PLAIN:
        value = getattr(loader, name)
        if value is not None and value != defaults.get(name):
            given.append((name, repr(value)))
    if loader.collate_fn not in (default_collate, default_convert):
        given.append(("collate_fn", "loader.collate_fn"))
    given += [
        (name, f"loader.{name}") for name in _OBJECTS if getattr(loader, name, None) is not None
    ]
    return tuple(given)


def _order(loader: DataLoader[Any]) -> list[tuple[str, str]]:
    sampler: Any = loader.sampler
    if isinstance(loader.dataset, IterableDataset) or type(sampler) is SequentialSampler:
        return []
    plain = type(sampler) is RandomSampler and not sampler.replacement
    if plain and draws_all(sampler) and sampler.generator is loader.generator:
        return [("shuffle", "True")]
    return [("sampler", "loader.sampler")]
