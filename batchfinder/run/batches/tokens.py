"""Batches under a token budget: the size counts tokens, padding included."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from batchfinder.protocols import Batch, Unit
from batchfinder.run.batches.lengths import Lengths
from batchfinder.run.batches.source import SampleSource
from batchfinder.run.tree import leaves
from batchfinder.wording import Caveat

__all__ = ["TokenSource", "tokens_in"]

_READ_AT_ONCE = 16  # samples drawn at once, of which batches are filled


class TokenSource:
    """A ``BatchSource`` whose sizes are tokens: as many samples as the budget holds, padded.

    A fixed batch holds the longest samples; one sample always goes in, whatever the budget.
    Samples and everything else are those of ``whole``, a source of the same loader.
    """

    unit: Unit = "tokens"

    def __init__(self, whole: SampleSource, *, allow_repeats: bool = False) -> None:
        self._whole, self._repeats = whole, allow_repeats
        self._waiting: deque[Any] = deque()
        self._ordinary = False

    @property
    def base_batch_size(self) -> int | None:
        return self._whole.base_batch_size

    @property
    def notes(self) -> tuple[Caveat, ...]:
        return self._whole.notes

    @property
    def lengths(self) -> Lengths:
        return self._whole.lengths

    @property
    def varies(self) -> bool:
        return not self._ordinary and self._whole.varies

    @property
    def worker_copies(self) -> int:
        return self._whole.worker_copies

    def expected_seconds(self, size: int) -> float:
        return self._whole.expected_seconds(max(1, round(size / self._typical())))

    @property
    def length(self) -> int | None:
        """Tokens in the samples known so far, scaled to all samples."""
        count = self._whole.length
        return None if count is None else int(count * self._typical())

    @property
    def ceiling(self) -> int | None:
        length = self._whole.length
        return None if self._repeats or length is None else length * self.tokens_of_longest

    @property
    def smallest(self) -> int:
        """The least budget that the longest sample goes into."""
        return self.tokens_of_longest

    @property
    def tokens_of_longest(self) -> int:
        """Tokens of the longest sample known, alone in a batch."""
        order = self.lengths.longest_first
        return max(1, self._tokens(self._whole.samples([order[0] if order else 0])[0]))

    def _typical(self) -> float:
        few = self._whole.samples(range(self._whole.store.available(64)))
        counts = [self._tokens(sample) for sample in few]
        return sum(counts) / max(1, len(counts))

    def _tokens(self, sample: Any) -> int:
        return tokens_in(self._whole.build([sample]))

    def count(self, batch: Batch) -> int:
        return tokens_in(batch)

    def as_ordinary(self) -> TokenSource:
        """The same source with ordinary batches in place of the longest."""
        twin = TokenSource(self._whole, allow_repeats=self._repeats)
        twin._ordinary = True
        return twin

    def take(self, size: int) -> Batch:
        longest = () if self._ordinary else self.lengths.longest_first
        return self._fixed(size, longest)

    def ordinary(self, size: int) -> Batch:
        return self._fixed(size, ())

    def _fixed(self, size: int, preferred: tuple[int, ...]) -> Batch:
        store = self._whole.store
        self._whole.check(1)
        order = preferred or range(store.available(min(size, _READ_AT_ONCE * 16)))
        turns = iter(range(size))
        return self._filled(
            size, lambda: self._whole.samples([order[next(turns) % len(order)]])[0], size
        )

    def draw(self, size: int) -> Batch:
        return self._filled(size, self._next, None)

    def _next(self) -> Any:
        if not self._waiting:
            store = self._whole.store
            few = _READ_AT_ONCE if store.length is None else min(_READ_AT_ONCE, store.length)
            self._waiting.extend(store.draw_samples(few))
        return self._waiting.popleft()

    def _filled(self, size: int, sample: Callable[[], Any], most: int | None) -> Batch:
        """As many samples as the budget holds; the first that does not fit waits for the next."""
        samples: list[Any] = []
        widest = 0
        while most is None or len(samples) < most:
            candidate = sample()
            widest = max(widest, self._tokens(candidate))
            if samples and widest * (len(samples) + 1) > size:
                if most is None:
                    self._waiting.appendleft(candidate)
                break
            samples.append(candidate)
        return self._whole.build(samples)

    def rewind(self, seed: int) -> None:
        self._waiting.clear()
        self._whole.rewind(seed)

    def expect(self, sizes: Sequence[int]) -> None:
        """How many samples a size of tokens holds is not known before."""

    def rebuild(self, size: int) -> Iterable[Batch]:
        return self._whole.rebuild(size)

    def close(self) -> None:
        self._whole.close()


def tokens_in(batch: Batch) -> int:
    """Rows × length of the first tensor with both: padding counts, since it is computed too."""
    tensors = [leaf for _, leaf in leaves(batch) if isinstance(leaf, torch.Tensor)]
    for tensor in tensors:
        if tensor.ndim >= 2:
            return int(tensor.shape[0] * tensor.shape[1])
    return int(tensors[0].numel()) if tensors else 0
