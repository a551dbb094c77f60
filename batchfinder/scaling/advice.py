"""What else to change with the batch size: sentences, each with its source."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from batchfinder.units import format_count

__all__ = ["Move", "advise"]

_LITTLE_CHANGE = 1.1


@dataclass(frozen=True)
class Move:
    """From the base batch and rate to the recommended ones. Sizes are global batches."""

    family: str
    base_batch: int
    batch: int
    micro_batch: int
    base_rate: float | None = None
    rate: float | None = None
    critical: float | None = None

    @property
    def factor(self) -> float:
        return self.batch / self.base_batch

    @property
    def is_small(self) -> bool:
        return max(self.factor, 1 / self.factor) < _LITTLE_CHANGE


def advise(move: Move) -> tuple[str, ...]:
    """Advice on steps, warm-up, betas, weight decay, EMA, clipping and BatchNorm."""
    if move.is_small:
        return ()
    return (
        *_steps(move),
        *_warm_up(move),
        *_adam(move),
        *_averages(move),
        "Gradient clipping: a larger batch has a smaller gradient norm (its noise part shrinks "
        "with the batch), so a threshold tuned at the base size clips less often "
        "(arXiv:1812.06162).",
        "BatchNorm, if the model has it: its statistics are those of one micro-batch of "
        f"{move.micro_batch}, not of the global batch (arXiv:1502.03167)"
        + ("; below 32 they are noisy (arXiv:1803.08494)." if move.micro_batch < 32 else "."),
    )


def _steps(move: Move) -> Iterator[str]:
    share = 1 / move.factor
    yield (
        f"Schedule: for the same number of epochs take {_times(share)} as many optimizer steps, "
        "and state schedules in samples or epochs rather than steps (arXiv:1811.03600)."
    )
    if move.critical is None:
        return
    steps = (1 + move.critical / move.batch) / (1 + move.critical / move.base_batch)
    samples = steps * move.factor
    yield (
        f"Steps: to reach the same loss expect about {_times(steps)} as many steps, which is "
        f"{_times(samples)} as many samples (arXiv:1812.06162)."
    )


def _warm_up(move: Move) -> Iterator[str]:
    if move.factor > 1:
        yield (
            "Warm-up: keep the number of warm-up samples, and at least 20 steps, rising linearly "
            "to the new rate (arXiv:1706.02677)."
        )


def _adam(move: Move) -> Iterator[str]:
    if move.family != "adam":
        return
    factor = move.factor
    first, second = 1 - factor * (1 - 0.9), 1 - factor * (1 - 0.999)
    if first > 0:
        beta = f"beta1 0.9 would become {first:.3g} and beta2 0.999 {second:.4g}"
    else:
        beta = "that is undefined for a change this large"
    yield (
        "Betas: unchanged. Theory would scale 1 - beta with the batch (arXiv:2205.10287): "
        f"{beta}; keeping beta2's half-life in samples is another proposal, 0.999 becoming "
        f"{0.999**factor:.4g} (arXiv:2507.07101)."
    )
    if move.rate and move.base_rate:
        decay = factor * move.base_rate / move.rate
        yield (
            "Weight decay (decoupled): to keep its time scale in samples multiply it by "
            f"{decay:.2g} (arXiv:2405.13698, arXiv:2505.13738). Not tested by us."
        )


def _averages(move: Move) -> Iterator[str]:
    yield (
        "An average of the weights (EMA): to keep its length in samples raise its decay to the "
        f"power {move.factor:.3g} (arXiv:2307.13813)."
    )


def _times(ratio: float) -> str:
    return f"{format_count(ratio)}x" if math.isfinite(ratio) else "an unknown number of times"
