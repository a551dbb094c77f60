"""A diffusion model on digits: what the noise schedule does to the gradient noise scale.

Each sample comes with a random time and random noise, which add to the noise of the gradient.
python examples/diffusion.py
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.data import DataLoader

from batchfinder import MicroBatchVariance, find_batch_size, gradient_noise_scale
from batchfinder.demo import digits
from batchfinder.progress import silent

TIMES = 1000


class UNet(nn.Module):
    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, 2 * width))
        self.enter = nn.Conv2d(1, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.across = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.leave = nn.Conv2d(2 * width, 1, 3, padding=1)

    def forward(self, images: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        first = nn.functional.silu(self.enter(images))
        deep = self.down(first) + self.time(time[:, None] / TIMES)[:, :, None, None]
        deep = nn.functional.silu(self.across(nn.functional.silu(deep)))
        return self.leave(torch.cat([first, self.up(deep)], dim=1))


# The share of the signal left at each time: Ho et al. 2020; Nichol and Dhariwal 2021.
def linear() -> torch.Tensor:
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, TIMES), 0)


def cosine() -> torch.Tensor:
    return torch.cos(torch.arange(1, TIMES + 1) / TIMES * math.pi / 2).square().clamp(1e-5)


def step_with(kept: torch.Tensor) -> Callable[[nn.Module, list[torch.Tensor]], torch.Tensor]:
    def step(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
        images = 2 * batch[0] - 1
        time = torch.randint(0, TIMES, (len(images),))
        share, noise = kept[time].view(-1, 1, 1, 1), torch.randn_like(images)
        noisy = share.sqrt() * images + (1 - share).sqrt() * noise
        return nn.functional.mse_loss(model(noisy, time.float()), noise)

    return step


def main() -> None:
    torch.manual_seed(0)
    model, loader = UNet(), DataLoader(digits(), batch_size=32, shuffle=True)
    settings = {"optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3)}
    warmed_up = MicroBatchVariance(warmup_steps=100)
    for schedule in (linear, cosine):
        step = step_with(schedule())
        noise = gradient_noise_scale(
            model, loader, train_step=step, noise=warmed_up, observe=silent, **settings
        )
        interval = f"({noise.low:.0f}–{noise.high:.0f})"
        print(f"{schedule.__name__:<7} {noise.value:6.0f} samples {interval}")
    # These limits are of this example, to be quick: leave them out.
    limits = {"memory_limit": "64MiB", "budget_seconds": 12}
    print(find_batch_size(model, loader, train_step=step, **limits, **settings))


if __name__ == "__main__":
    main()
