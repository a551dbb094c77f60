"""Datasets, collate functions and samplers of the kinds that people really have."""

from __future__ import annotations

import math
import random
from collections import UserDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils.data import BatchSampler, Dataset, IterableDataset, Sampler


class Rows(Dataset):
    """Sample ``i`` is a vector full of ``i`` and the class ``i % 3``."""

    def __init__(self, count: int = 20) -> None:
        self.count = count
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.count:
            raise IndexError(index)
        self.read.append(index)
        return torch.full((2,), float(index)), index % 3


class DictRows(Rows):
    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        return {"x": x, "labels": y, "name": f"row {index}"}


class Pair(NamedTuple):
    x: torch.Tensor
    y: int


class NamedRows(Rows):
    def __getitem__(self, index: int) -> Any:
        return Pair(*super().__getitem__(index))


class NestedRows(Rows):
    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        return {"views": (x, x + 0.5), "meta": {"y": y}}


class ManyRows(Rows):
    """Reads many indices at once, as datasets over columnar files do."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


class SliceRows(Rows):
    """Indexed by a list of indices: the dataset collates itself."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, list):
            x = torch.stack([torch.full((2,), float(i)) for i in index])
            return x, torch.tensor([i % 3 for i in index])
        return super().__getitem__(index)


class StreamRows(IterableDataset):
    def __init__(self, count: int = 20) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return ((torch.full((2,), float(i)), i % 3) for i in range(self.count))


class StreamBatches(IterableDataset):
    """A stream that makes batches of 4 itself."""

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, 20, 4):
            x = torch.arange(start, start + 4.0)
            yield x[:, None].repeat(1, 2), (x % 3).long()


class Texts(Dataset):
    """Token lists with a long tail: most of 8 tokens, the last few up to 64."""

    def __init__(self, count: int = 60) -> None:
        self.lengths = [8 if i < count - 4 else 16 * (i - count + 5) for i in range(count)]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Any:
        return {"input_ids": [index % 7 + 1] * self.lengths[index], "labels": index % 2}


class Encoding(UserDict):  # as transformers.BatchEncoding: a mapping that is no dict
    def to(self, device: Any) -> Encoding:
        return Encoding({k: v.to(device) if hasattr(v, "to") else v for k, v in self.items()})


@dataclass
class Graphs:
    x: torch.Tensor
    y: torch.Tensor


def pad(samples: list[Any]) -> dict[str, torch.Tensor]:
    width = max(len(sample["input_ids"]) for sample in samples)
    rows = [s["input_ids"] + [0] * (width - len(s["input_ids"])) for s in samples]
    labels = [sample["labels"] for sample in samples]
    return {"input_ids": torch.tensor(rows), "labels": torch.tensor(labels)}


def as_encoding(samples: list[Any]) -> Encoding:
    return Encoding({"x": torch.stack([s[0] for s in samples]), "labels": _classes(samples)})


def as_dataclass(samples: list[Any]) -> Graphs:
    return Graphs(torch.stack([s[0] for s in samples]), _classes(samples))


def as_tensor(samples: list[Any]) -> torch.Tensor:
    return torch.stack([s[0] for s in samples])


def time_first(samples: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([s[0] for s in samples], dim=1), _classes(samples)


def identity(batch: Any) -> Any:
    return batch


def popping(samples: list[Any]) -> dict[str, torch.Tensor]:
    """Changes its samples, as some collators do."""
    labels = torch.tensor([sample.pop("labels") for sample in samples])
    return {"x": torch.stack([s["x"] for s in samples]), "labels": labels}


def _classes(samples: list[Any]) -> torch.Tensor:
    return torch.tensor([sample[1] for sample in samples])


class EverySecond(Sampler[int]):
    """A sampler of the user's own, with state: it starts one further at every epoch."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        return iter(range((self.epoch - 1) % 2, self.count, 2))

    def __len__(self) -> int:
        return self.count // 2


class PythonShuffle(Sampler[int]):
    """Shuffles by a generator of Python's that it keeps."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.random = random.Random(5)

    def __iter__(self) -> Iterator[int]:
        order = list(range(self.count))
        self.random.shuffle(order)
        return iter(order)

    def __len__(self) -> int:
        return self.count


class Buckets(Sampler[list[int]]):
    """Batches of neighbours in length, in an order drawn by a generator; exposes its size."""

    def __init__(self, lengths: list[int], batch_size: int, seed: int = 0) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed

    def __iter__(self) -> Iterator[list[int]]:
        order = sorted(range(len(self.lengths)), key=lambda i: self.lengths[i])
        size = self.batch_size
        chunks = [order[i : i + size] for i in range(0, len(order), size)]
        random.Random(self.seed).shuffle(chunks)
        return iter(chunks)

    def __len__(self) -> int:
        return math.ceil(len(self.lengths) / self.batch_size)


class Hidden(Sampler[list[int]]):
    """Batches made when it is built; its size is nowhere to be seen."""

    def __init__(self, count: int, size: int) -> None:
        self._batches = [list(range(i, min(i + size, count))) for i in range(0, count, size)]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


class Wrapped:
    """A batch sampler around another one, as distributed wrappers are."""

    def __init__(self, batch_sampler: BatchSampler) -> None:
        self.batch_sampler = batch_sampler
        self.batch_size = batch_sampler.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batch_sampler)

    def __len__(self) -> int:
        return len(self.batch_sampler)


class TokenBudget(Sampler[list[int]]):
    """As many samples in order as ``max_tokens`` holds once padded."""

    def __init__(self, lengths: list[int], max_tokens: int) -> None:
        self.lengths = lengths
        self.max_tokens = max_tokens

    def __iter__(self) -> Iterator[list[int]]:
        chunk: list[int] = []
        widest = 0
        for index, length in enumerate(self.lengths):
            if chunk and max(widest, length) * (len(chunk) + 1) > self.max_tokens:
                yield chunk
                chunk, widest = [], 0
            chunk.append(index)
            widest = max(widest, length)
        if chunk:
            yield chunk
