"""A device's memory: its limit, its peak, and how to hand back what is cached.

- ``ledger``: which storages are alive, operator by operator;
- ``simulated``: a limit of any size, kept exactly by the ledger, on any machine;
- ``cpu``: the machine's real memory, with what kernels take inside one operator;
- ``host``: how much of it is free;
- ``device``: devices with a caching allocator (CUDA, ROCm, XPU);
- ``mps``: Apple's GPUs;
- ``nvml``: who else is on an NVIDIA GPU;
- ``defaults``: what a back-end answers where there is nothing to say;
- ``choice``: which back-end a device gets; the public context manager.

To add a device, write a class with ``MemoryBackend``'s methods and give it a row in ``BACKENDS``.
"""

from __future__ import annotations

from batchfinder.run.memory.choice import BACKENDS, backend_for, memory_limit
from batchfinder.run.memory.device import is_fragmented, may_expand
from batchfinder.run.memory.host import host_budget
from batchfinder.run.memory.ledger import Ledger
from batchfinder.run.memory.nvml import handle_of, nvml_and_uuid
from batchfinder.run.memory.simulated import active_limit

__all__ = [
    "BACKENDS",
    "Ledger",
    "active_limit",
    "backend_for",
    "handle_of",
    "host_budget",
    "is_fragmented",
    "may_expand",
    "memory_limit",
    "nvml_and_uuid",
]
