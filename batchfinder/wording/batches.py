"""What is said of how samples are read and batches built."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["SENTENCES"]

SENTENCES: Mapping[str, str | Callable[..., str]] = {
    "batches.no_workers": (
        "the loader's worker processes could not be started ({reason}): samples were read in this "
        "process, one after the other"
    ),
    "batches.repeating_workers": (
        "each of the loader's {workers} worker processes yields the whole stream, so that an epoch "
        "holds every sample {workers} times: split it with torch.utils.data.get_worker_info()"
    ),
}
