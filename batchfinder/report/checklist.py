"""What else changes when the batch does, with this report's own numbers in it.

Sources: EMA and Adam's betas, Busbridge et al. 2023 (arXiv:2307.13813) and Malladi et al. 2022
(arXiv:2205.10287); weight decay, Wang and Aitchison 2024 (arXiv:2405.13698).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from batchfinder.units import format_size

if TYPE_CHECKING:
    from batchfinder.report.record import Report

__all__ = ["checklist", "growth"]


def growth(report: Report) -> float | None:
    """The recommended global batch over the one in use so far; ``None`` where that is unknown."""
    if not report.base_batch_size:
        return None
    return report.global_batch_size / (report.base_batch_size * report.world_size)


def checklist(report: Report) -> tuple[str, ...]:
    """The recommendation's own advice, then each topic here that the advice does not mention."""
    advice = report.recommendation.advice
    said = " ".join(advice).lower()
    ours = (sentence for word, sentence in _topics(report) if word not in said)
    return (*advice, *ours)


def _topics(report: Report) -> Iterator[tuple[str, str]]:
    factor = growth(report)
    if factor is not None and abs(factor - 1) > 0.01:
        yield from _scaled(report, factor)
    yield (
        "clip",
        "Gradient clipping: a larger batch has a shorter mean gradient, so the same threshold"
        " clips less often. Watch the share of clipped steps.",
    )
    if report.accumulation_steps > 1:
        yield (
            "batchnorm",
            "BatchNorm, where there is any, sees micro-batches of"
            f" {format_size(report.batch_size)}, whatever the accumulation; so does every loss"
            " that compares the samples of a batch.",
        )
    else:
        yield (
            "batchnorm",
            "BatchNorm, where there is any, takes its statistics over the batch per device, which"
            f" is now {format_size(report.batch_size)}.",
        )


def _scaled(report: Report, factor: float) -> Iterator[tuple[str, str]]:
    times = f"{factor:.3g}x"
    yield (
        "epoch",
        f"Steps or epochs: an optimizer step now sees {times} the {report.unit}. The same number"
        f" of epochs has {1 / factor:.3g}x the optimizer steps; a fixed number of steps sees"
        f" {times} the data.",
    )
    yield (
        "warm-up",
        f"Warm-up: counted in steps, multiply it by {1 / factor:.3g} to cover the same data.",
    )
    yield (
        "schedule",
        f"Schedule: every length counted in steps changes by {1 / factor:.3g}x in the same way,"
        " evaluation and checkpoints too.",
    )
    yield (
        "ema",
        f"EMA of the weights: raise the decay to the power {factor:.3g} to average over the same"
        f" data (0.999 becomes {0.999**factor:.4g}).",
    )
