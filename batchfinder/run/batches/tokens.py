"""Batches under a token budget: the size counts tokens, padding included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from batchfinder.protocols import Batch
from batchfinder.run.batches.randomness import kept
from batchfinder.run.batches.source import SampleSource
from batchfinder.run.batches.structure import leaves

__all__ = ["TokenSource", "tokens_in"]


class TokenSource(SampleSource):
    """A ``BatchSource`` whose sizes are tokens: as many samples as the budget holds, padded.

    A fixed batch holds the longest samples; one sample always goes in, whatever the budget.
    """

    unit = "tokens"

    @property
    def length(self) -> int | None:
        """Tokens in the samples known so far, scaled to all samples."""
        count = self._store.length
        return None if count is None else int(count * self._typical())

    @property
    def ceiling(self) -> int | None:
        if self._repeats or self._store.length is None:
            return None
        return self._store.length * self.tokens_of_longest

    @property
    def smallest(self) -> int:
        """The least budget that the longest sample goes into."""
        return self.tokens_of_longest

    @property
    def tokens_of_longest(self) -> int:
        """Tokens of the longest sample known, alone in a batch."""
        order = self.lengths.longest_first
        with kept():
            return max(1, tokens_in(self._build([self._sample(order[0] if order else 0)])))

    def _typical(self) -> float:
        few = range(min(64, self._store.available(64)))
        with kept():
            counts = [tokens_in(self._build([self._sample(position)])) for position in few]
        return sum(counts) / max(1, len(counts))

    def count(self, batch: Batch) -> int:
        return tokens_in(batch)

    def draw(self, size: int) -> Batch:
        samples: list[Any] = []
        widest = 0
        while True:
            sample = self._store.draw(1)[0]
            widest = max(widest, tokens_in(self._build([sample])))
            if samples and widest * (len(samples) + 1) > size:
                return self._build(samples)
            samples.append(sample)

    def _fixed(self, size: int, preferred: Sequence[int]) -> Batch:
        self._check(size)
        there = self._store.available(size)
        order = preferred or range(there)
        samples: list[Any] = []
        widest = 0
        for turn in range(size):
            with kept():
                sample = self._sample(order[turn % len(order)])
            widest = max(widest, tokens_in(self._build([sample])))
            if samples and widest * (len(samples) + 1) > size:
                break
            samples.append(sample)
        return self._build(samples)


def tokens_in(batch: Batch) -> int:
    """Rows × length of the first tensor with both: padding counts, since it is computed too."""
    tensors = [leaf for _, leaf in leaves(batch) if isinstance(leaf, torch.Tensor)]
    for tensor in tensors:
        if tensor.ndim >= 2:
            return int(tensor.shape[0] * tensor.shape[1])
    return int(tensors[0].numel()) if tensors else 0
