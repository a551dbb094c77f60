"""What is said of how samples are read and batches built."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["SENTENCES"]


def _left(names: tuple[str, ...]) -> str:
    listed = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return (
        f"reading samples changed {listed}, which was not undone. Training(..., "
        "preserve=[dataset]) puts a data set back with its counters"
    )


def _lengths(scanned: int, share: float | None) -> str:
    among = "of a stream" if share is None else f"({share:.1%} of the samples)"
    return (
        f"samples vary in length. The longest were found among {scanned} {among}; a longer one "
        "elsewhere would need more memory"
    )


def _stream(is_length_known: bool) -> str:
    unknown = "" if is_length_known else ", and its length is unknown"
    return f"the dataset is a stream: samples were buffered from its start{unknown}"


SENTENCES: Mapping[str, str | Callable[..., str]] = {
    "batches.by_dataset": (
        "the loader yields batches that its dataset makes (batch_size=None); other sizes were "
        "cut and joined from those"
    ),
    "batches.of_dataset": (
        "a dataset was given in place of a loader: batches are collated by default and shuffled"
    ),
    "batches.none_at_all": (
        "the loader as it is yields no batch at all: drop_last=True, {base} samples per batch, "
        "{count} samples"
    ),
    "batches.lengths": _lengths,
    "batches.lengths_cut": (
        "the budget left time to look at the lengths of {scanned} samples only; a longer one "
        "elsewhere would need more memory"
    ),
    "batches.made_vary": (
        "batches of make_loader vary in length. The largest of its first {looked_at} was used; a "
        "longer one later would need more memory"
    ),
    "batches.stream": _stream,
    "batches.cut": (
        "the loader is an iterable of batches: other sizes were cut and joined from those"
    ),
    "batches.left": _left,
    "batches.no_workers": (
        "the loader's worker processes could not be started ({reason}): samples were read in this "
        "process, one after the other"
    ),
    "batches.repeating_workers": (
        "each of the loader's {workers} worker processes yields the whole stream, so that an epoch "
        "holds every sample {workers} times: split it with torch.utils.data.get_worker_info()"
    ),
}
