"""The way to the weights at which one look is wanted: training steps that are not measured."""

from __future__ import annotations

from functools import partial

from batchfinder.noise.draws import Epochs
from batchfinder.noise.hazards import MOST_LOOKED_AT, Hazards, look_for_hazards
from batchfinder.noise.room import NoRoom, NoRoomToUpdate, attempt
from batchfinder.noise.walk import Walk, cut
from batchfinder.protocols import BatchSource, TrainStep

__all__ = ["approach", "hazards_in_room"]


def approach(
    step: TrainStep,
    source: BatchSource,
    *,
    batch: int,
    micro_batch: int,
    steps: int,
    seed: int = 0,
) -> int:
    """Take ``steps`` optimizer steps of ``batch`` samples, which stay taken; the micro-batch used.

    Accumulated from micro-batches of ``micro_batch``, or of the next half where memory runs out.

    Raises:
        NoRoom: where memory runs out with micro-batches of 1 too, or in the update.
        LossIsNotFinite: where the training has no finite loss.
    """
    hazards = hazards_in_room(step, source, seed, micro_batch)
    walk = Walk(step, Epochs(source, seed), hazards.sum_reduced)
    taken = 0
    while taken < steps:
        try:
            walk.train(cut(batch, micro_batch, 1))
            taken += 1
        except NoRoomToUpdate:
            raise
        except NoRoom:
            if micro_batch == 1:
                raise
            micro_batch //= 2
    step.zero_grad()
    return micro_batch


def hazards_in_room(step: TrainStep, source: BatchSource, seed: int, most: int) -> Hazards:
    """What makes the noise scale wrong, looked for with as many samples as memory lasts for."""
    most = min(most, MOST_LOOKED_AT)
    while True:
        try:
            return attempt(step, most, partial(look_for_hazards, step, source, seed, most))
        except NoRoom:
            most = max(1, most // 2)  # with very few it looks at modules alone
