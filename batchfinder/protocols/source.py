"""The user's loader, as batches of any size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from batchfinder.wording import Caveat

__all__ = ["Batch", "BatchSource", "MicroBatches", "Unit"]

Batch: TypeAlias = Any
"""Whatever the user's loader yields: a tensor, tuple, mapping, dataclass, nested."""

Unit: TypeAlias = Literal["samples", "tokens"]
"""What the size of a batch counts."""


class BatchSource(Protocol):
    """Batches of any size from the user's loader, which is never modified."""

    @property
    def base_batch_size(self) -> int | None:
        """The size that the user's loader is set to."""
        ...

    @property
    def length(self) -> int | None:
        """Samples in the dataset; ``None`` for a stream."""
        ...

    @property
    def ceiling(self) -> int | None:
        """The largest batch that the dataset can fill; ``None`` for a stream."""
        ...

    @property
    def unit(self) -> Unit:
        """What a batch size counts: "samples", or "tokens" under a token budget."""
        ...

    def take(self, size: int) -> Batch:
        """A batch of exactly ``size`` for memory trials and timing: the same at every call.

        Where lengths vary this is the batch of the longest samples.
        """
        ...

    def ordinary(self, size: int) -> Batch:
        """Like ``take``, of ordinary samples rather than the longest: for timing."""
        ...

    def draw(self, size: int) -> Batch:
        """``size`` samples not drawn since the last ``rewind``, in random order (for noise)."""
        ...

    def rewind(self, seed: int) -> None:
        """Start ``draw`` again, shuffled by ``seed``."""
        ...

    def expect(self, sizes: Sequence[int]) -> None:
        """The sizes of the next draws, and no draw after them: these may be read ahead.

        Until the next ``rewind``, or a draw of another size. It promises nothing.
        """
        ...

    def count(self, batch: Batch) -> int:
        """How many samples (or tokens) ``batch`` holds."""
        ...

    def expected_seconds(self, size: int) -> float:
        """For reading ``size`` samples as the user's loader does, by what reading took so far.

        0.0 where that is unknown.
        """
        ...

    def rebuild(self, size: int) -> Iterable[Batch]:
        """The user's own loader at another batch size: same dataset, collate, workers, order."""
        ...

    @property
    def smallest(self) -> int:
        """The smallest batch that can be built: 1, or the longest sample of a token budget."""
        ...

    @property
    def notes(self) -> tuple[Caveat, ...]:
        """What had to be assumed of the loader."""
        ...

    @property
    def varies(self) -> bool:
        """Whether a batch of the longest samples is larger than an ordinary one."""
        ...

    def as_ordinary(self) -> BatchSource:
        """The same source with ordinary batches in place of the longest."""
        ...

    @property
    def worker_copies(self) -> int:
        """Batches that the loader's workers hold in host memory at once."""
        ...

    def close(self) -> None:
        """End the workers that read for it, if there are any."""
        ...


class MicroBatches(Protocol):
    """Micro-batches of distinct samples for one estimate, and what each one counts."""

    @property
    def size(self) -> int:
        """Samples in each, nominally."""
        ...

    @property
    def unit(self) -> Unit:
        """What a size counts: "samples", or "tokens" under a token budget."""
        ...

    @property
    def population(self) -> int | None:
        """Samples in the whole set; ``None`` for a stream."""
        ...

    @property
    def ended(self) -> str:
        """What ended the batches before they were all asked for: "data", "time", or ""."""
        ...

    def __iter__(self) -> Iterator[Batch]: ...
    def count(self, batch: Batch) -> int:
        """How many samples (or tokens) ``batch`` holds."""
        ...

    def weight(self, batch: Batch) -> float:
        """The factor under which the loss of ``batch`` enters an accumulated gradient."""
        ...

    def first(self, most: int) -> MicroBatches:
        """The first ``most`` micro-batches, and no more."""
        ...
