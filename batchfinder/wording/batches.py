"""Sentences about reading samples and building batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["SENTENCES"]


def _left(names: tuple[str, ...]) -> str:
    listed = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return (
        f"reading samples changed {listed}, which was not undone. Training(..., "
        "preserve=[dataset]) restores a dataset with its counters"
    )


def _lengths(scanned: int, share: float | None) -> str:
    of = "of the stream" if share is None else f"({share:.1%} of the dataset)"
    return (
        f"samples vary in length. The longest of {scanned:,} samples {of} were used; longer ones "
        "would need more memory"
    )


def _stream(is_length_known: bool) -> str:
    unknown = "" if is_length_known else ", and its length is unknown"
    return f"the dataset is a stream: samples were buffered from its beginning{unknown}"


SENTENCES: Mapping[str, str | Callable[..., str]] = {
    "batches.by_dataset": (
        "the dataset yields whole batches (batch_size=None); other sizes were built by splitting "
        "and joining them"
    ),
    "batches.of_dataset": (
        "a dataset was given instead of a loader: it is shuffled, with default collation"
    ),
    "batches.none_at_all": (
        "the loader yields no batch: drop_last=True, with a batch size of {base} and {count} "
        "samples"
    ),
    "batches.lengths": _lengths,
    "batches.lengths_cut": (
        "the budget left time to read the lengths of only {scanned} samples; a longer sample "
        "would need more memory"
    ),
    "batches.made_vary": (
        "batches from make_loader vary in length. The largest of the first {looked_at} was used; "
        "a larger one would need more memory"
    ),
    "batches.stream": _stream,
    "batches.cut": (
        "the loader is an iterable of batches: other sizes were built by splitting and joining them"
    ),
    "batches.left": _left,
    "batches.no_workers": (
        "the loader's worker processes could not be started ({reason}): samples were read in this "
        "process, one at a time"
    ),
    "batches.repeating_workers": (
        "each of the loader's {workers} worker processes yields the whole stream, so an epoch "
        "contains every sample {workers} times: split the stream with "
        "torch.utils.data.get_worker_info()"
    ),
}
