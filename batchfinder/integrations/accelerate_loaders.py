"""What Accelerate prepared: which ways of distributing are searched, and loaders on every rank.

Loaders are read without a word to other ranks: a prepared one synchronizes generators as it
begins, keeps account in ``GradientState``, and may have rank 0 read for all. The ``DataLoader``
inside it does none of that.
"""

from __future__ import annotations

import copy
from typing import Any

from accelerate.data_loader import BatchSamplerShard, DataLoaderDispatcher, IterableDatasetShard
from accelerate.utils import DistributedType
from torch.utils.data import IterableDataset

from batchfinder.errors import InvalidArgument
from batchfinder.run.batches import rebuild_loader

__all__ = ["own_loader", "refuse_accelerator", "size_per_rank", "with_size"]

_PLAIN = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


def refuse_accelerator(accelerator: Any) -> None:
    """Refuse what is neither one process nor DistributedDataParallel.

    Raises:
        InvalidArgument: naming the way out.
    """
    kind = accelerator.distributed_type
    if kind not in _PLAIN:
        raise InvalidArgument(
            f"expected one device or DistributedDataParallel; found {kind.value}: search with one "
            "device, or with DistributedDataParallel on all, then leave headroom"
        )


def own_loader(loader: Any) -> Any:
    """The ``DataLoader`` inside a prepared one, of this rank's samples; any other as it is."""
    inner = getattr(loader, "base_dataloader", None)
    if inner is None:
        return loader
    if not isinstance(loader, DataLoaderDispatcher) or loader.state.num_processes == 1:
        return inner
    place = (loader.state.num_processes, loader.state.process_index, loader.split_batches)
    if isinstance(inner.dataset, IterableDataset):
        shard = IterableDatasetShard(inner.dataset, inner.batch_size, inner.drop_last, *place)
        size = inner.batch_size // (place[0] if loader.split_batches else 1)
        return _changed(inner, dataset=shard, batch_size=size)
    return _changed(inner, batch_sampler=BatchSamplerShard(inner.batch_sampler, *place))


def size_per_rank(loader: Any) -> int | None:
    """Samples in one batch of one rank; ``None`` where the loader does not say."""
    sampler = getattr(loader, "batch_sampler", None)
    size = getattr(sampler, "batch_size", None) or getattr(loader, "batch_size", None)
    return None if size is None else size // _ranks_of_one_batch(loader)


def with_size(loader: Any, size: int) -> Any:
    """``loader`` prepared anew, with batches of ``size`` on each rank."""
    if isinstance(loader, DataLoaderDispatcher):
        return rebuild_loader(loader, size * _ranks_of_one_batch(loader))
    rebuilt: Any = rebuild_loader(loader, size)
    shard = getattr(loader, "dataset", None)
    if isinstance(shard, IterableDatasetShard):
        twin = copy.copy(shard)
        twin.batch_size = size * (twin.num_processes if twin.split_batches else 1)
        rebuilt.base_dataloader = _changed(rebuilt.base_dataloader, dataset=twin)
    return rebuilt


def _ranks_of_one_batch(loader: Any) -> int:
    """Over how many ranks one batch of the loader inside is cut (``split_batches``)."""
    if isinstance(loader, DataLoaderDispatcher):
        return loader.state.num_processes if loader.split_batches else 1
    for part in (getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)):
        if isinstance(part, BatchSamplerShard):
            return part.num_processes if part.split_batches else 1
    return 1


def _changed(loader: Any, **parts: Any) -> Any:
    """A copy with other parts; a ``DataLoader`` lets none be set."""
    twin = copy.copy(loader)
    vars(twin).update(parts, _iterator=None)
    return twin
