"""How much memory would it take? Answered by a rehearsal on fake tensors, for any device.

- ``estimate``: ``estimate_memory`` and ``predict_max_batch_size``, for people;
- ``allowances``: what is set aside on a GPU, and the sizes that then fit;
- ``device_kernels``: what a CUDA device does otherwise than the CPU;
- ``guess``: ``first_guess``, for the search, which checks it by running it;
- ``rehearsal``: one training step without its bytes, under the ledger;
- ``fakes``: the user's tensors swapped in place, and put back; a batch of any size, from two small
  real ones;
- ``assumed``: answers for what depends on the data, each reported.
"""

from __future__ import annotations

from batchfinder.predict.answers import (
    Allowance,
    DevicePredictions,
    MemoryEstimate,
    MemoryPrediction,
)
from batchfinder.predict.estimate import (
    estimate_memory,
    predict_for_devices,
    predict_max_batch_size,
)
from batchfinder.predict.guess import first_guess
from batchfinder.predict.savings import MemorySavings, memory_savings

__all__ = [
    "Allowance",
    "DevicePredictions",
    "MemoryEstimate",
    "MemoryPrediction",
    "MemorySavings",
    "estimate_memory",
    "first_guess",
    "memory_savings",
    "predict_for_devices",
    "predict_max_batch_size",
]
