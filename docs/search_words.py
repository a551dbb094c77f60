"""What somebody types into the search, and the page that is to come first."""

from __future__ import annotations

ENDS_ON = {
    "Lightning": "frameworks/lightning",
    "Fabric": "frameworks/lightning",
    "Transformers": "frameworks/transformers",
    "Accelerate": "frameworks/accelerate",
    "GPU": "on_a_gpu",
    "CUDA": "on_a_gpu",
    "MIG": "on_a_gpu",
    "how long": "how_long",
    "several GPUs": "several_processes",
    "DDP": "several_processes",
    "FSDP": "several_processes",
    "pytest": "testing",
    "diffusion": "diffusion",
    "learning rate": "how_to_choose",
    "install": "thirty_seconds",
    "error": "errors",
}
