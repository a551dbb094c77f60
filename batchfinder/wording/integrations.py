"""Sentences that the adapters add to a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["SENTENCES"]


def _counted(names: tuple[str, ...], factor: float) -> str:
    return (
        f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} counted in optimizer steps, each "
        f"of which now covers {factor:.3g}x the samples; divide by that to keep the training "
        "unchanged"
    )


SENTENCES: Mapping[str, str | Callable[..., str]] = {
    "integrations.counted": _counted,
    "integrations.shrinks": (
        "auto_find_batch_size is on and may still reduce the batch size later; turn it off to "
        "keep the one that was found"
    ),
}
