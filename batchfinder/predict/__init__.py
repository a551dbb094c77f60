"""How much memory would it take? Answered by a rehearsal on fake tensors, for any device.

- ``estimate``: ``estimate_memory`` and ``predict_max_batch_size``, for people;
- ``guess``: ``first_guess``, for the search, which checks it by running it;
- ``rehearsal``: one training step without its bytes, under the ledger;
- ``twins``: the user's tensors swapped for fakes in place, and put back;
- ``shapes``: a batch of any size, from two small real ones;
- ``assumed``: answers for what depends on the data, each reported;
- ``root``: the size at which a peak meets a limit.
"""

from __future__ import annotations

from batchfinder.predict.answers import Allowance, MemoryEstimate, MemoryPrediction
from batchfinder.predict.estimate import estimate_memory, predict_max_batch_size
from batchfinder.predict.guess import first_guess

__all__ = [
    "Allowance",
    "MemoryEstimate",
    "MemoryPrediction",
    "estimate_memory",
    "first_guess",
    "predict_max_batch_size",
]
