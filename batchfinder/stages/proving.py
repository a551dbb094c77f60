"""Was everything put back? The digest says, and a warning names what was not."""

from __future__ import annotations

import warnings

from batchfinder.errors import StateNotRestoredWarning
from batchfinder.stages.call import Call

__all__ = ["not_restored"]

_UNSEEN = (
    "the optimizer inside train_step, which was not passed (pass optimizer= so that its state is "
    "put back)"
)


def not_restored(call: Call) -> tuple[str, ...]:
    """What is not, or cannot be shown to be, as it was before the call; a warning names it."""
    lost = call.bench.snapshot.differences()
    if call.bench.step.updates_itself and not call.bench.has_own_optimizer:
        lost = (*lost, _UNSEEN)
    if lost:
        warnings.warn(
            f"not shown to be as before the call: {', '.join(lost)}. If a step of yours keeps "
            "state outside the model and the optimizer, name that object in preserve=[...].",
            StateNotRestoredWarning,
            stacklevel=3,
        )
    return lost
