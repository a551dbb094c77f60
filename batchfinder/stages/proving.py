"""Was everything put back? The digest says, and a warning names what was not."""

from __future__ import annotations

import warnings

from batchfinder.errors import StateNotRestoredWarning
from batchfinder.stages.call import Call

__all__ = ["prove_restored"]


def prove_restored(call: Call) -> bool:
    """Whether the digest of all that was touched is the one from before the call."""
    differences = call.bench.snapshot.differences()
    if differences:
        warnings.warn(
            f"not as before the call: {', '.join(differences)}. If a step of yours keeps state "
            "outside the model and the optimizer, name that object in preserve=[...].",
            StateNotRestoredWarning,
            stacklevel=3,
        )
    return not differences
