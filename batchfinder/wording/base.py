"""Sentences about the batch size and learning rate that the user trains with now."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["SENTENCES"]

SENTENCES: Mapping[str, str] = {
    "base.no_size": "no batch size was given and the loader has none: {assumed} was assumed",
    "base.beyond_dataset": (
        "the base batch size {size} exceeds the {ceiling} samples of the dataset; the size of the "
        "dataset was used instead"
    ),
    "base.zero_rate": (
        "the optimizer's learning rate is 0, so nothing would be trained: pass scheduler= if a "
        "schedule raises it, or base_learning_rate="
    ),
    "base.range_test": "no learning rate was given: a range test estimates one",
    "base.no_rate_found": (
        "no learning rate was given and the range test found none, so no rate is recommended: "
        "pass optimizer= or base_learning_rate="
    ),
    "base.rate_found": (
        "no learning rate was given: {rate:.2g}, from a learning-rate range test at batch size "
        "{batch}, was used instead of the assumed optimizer's default; pass optimizer= or "
        "base_learning_rate= to use a rate that you know works"
    ),
}
