"""The public way to make a device small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from batchfinder.protocols import MemoryBackend
from batchfinder.run.memory.choice import backend_for

__all__ = ["memory_limit"]


@contextmanager
def memory_limit(
    limit: int | str, device: torch.device | str | None = None
) -> Iterator[MemoryBackend]:
    """Let the work inside use no more than ``limit``, as if the device were that small.

    On the CPU (the default) live tensors are counted operator by operator, and passing the limit
    raises the real ``torch.OutOfMemoryError``: a test that a model trains in 8 GiB needs no GPU.
    A tensor made before counts from the first operator that meets it. On CUDA and XPU this
    process's allocator is capped, and the cap is put back afterwards.

    On the CPU every tensor that an operator takes or gives counts, and not what a kernel allocates
    inside of itself: of a small CNN's peak by torch's profiler that is 26%
    (docs/tables/prediction.md).

    ``find_batch_size`` inside takes this limit as its own.

    Args:
        limit: bytes, or text such as ``"512MiB"`` (binary) or ``"8GB"`` (decimal).
        device: whose memory; the CPU if left out.

    Yields:
        The memory, whose ``peak_bytes()`` says what was needed so far.

    Raises:
        InvalidArgument: where ``limit`` is no amount of bytes.
        torch.OutOfMemoryError: (from inside) where the limit is passed.
    """
    memory = backend_for(torch.device(device if device is not None else "cpu"), limit)
    with memory.capped():
        yield memory
