"""What is said of the pair of batch size and learning rate that the user trains with now."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["SENTENCES"]

SENTENCES: Mapping[str, str] = {
    "base.no_size": "no batch size was given and the loader names none: {assumed} was assumed",
    "base.beyond_dataset": (
        "the base batch size {size} is more than the {ceiling} samples of the dataset, whose size "
        "was used instead"
    ),
    "base.zero_rate": (
        "the optimizer's learning rate is 0, at which nothing is trained: pass scheduler= where a "
        "schedule raises it, or base_learning_rate="
    ),
    "base.range_test": "no learning rate was given: a range test looks for one",
    "base.no_rate_found": (
        "no learning rate was given and the range test found none: no rate is recommended; pass "
        "optimizer= or base_learning_rate="
    ),
    "base.rate_found": (
        "no learning rate was given: {rate:.2g}, from a learning-rate range test at batch {batch}, "
        "was used rather than the assumed optimizer's default; pass optimizer= or "
        "base_learning_rate= to use one that you know to work"
    ),
}
