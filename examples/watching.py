"""A diffusion model and a small GPT watched from start to end, and one instability on purpose.

The batch of the diffusion model follows its noise scale; the GPT's learning rate goes up and up.
python examples/watching.py
"""

from __future__ import annotations

import torch
from diffusion import UNet, cosine, step_with
from language_model import Characters, Model, next_character
from torch.utils.data import DataLoader

from batchfinder import BatchSizeScheduler, TrainingMonitor
from batchfinder.demo import digits
from batchfinder.monitor import FollowMonitor

STEPS = 600


def diffusion() -> TrainingMonitor:
    torch.manual_seed(0)
    model, loss_of = UNet(width=12), step_with(cosine())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    monitor = TrainingMonitor(model, optimizer, batch_size=16, every=10, observe=print)
    loader = DataLoader(digits(), batch_size=16, shuffle=True, drop_last=True)
    growth = BatchSizeScheduler(loader, optimizer, FollowMonitor(at_most=64), monitor=monitor)
    while growth.steps < STEPS:
        for batch in growth.loader:
            optimizer.zero_grad()
            for part, share in growth.parts(batch):
                loss = loss_of(model, part)
                (share * loss).backward()
            optimizer.step()
            growth.step()
            monitor.step(loss)
    return monitor


def language(rate_grows_after: int | None = None) -> TrainingMonitor:
    torch.manual_seed(0)
    text = Characters()
    model = Model(text.kinds, width=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    monitor = TrainingMonitor(model, optimizer, batch_size=16, every=10, observe=print)
    for batch in DataLoader(text, batch_size=16, shuffle=True):
        if rate_grows_after is not None and monitor.steps > rate_grows_after:
            optimizer.param_groups[0]["lr"] *= 1.08
        optimizer.zero_grad()
        for part, share in monitor.parts(batch):
            loss = next_character(model(part[0]), part[1])
            (share * loss).backward()
        optimizer.step()
        monitor.step(loss)
    return monitor


def show(name: str, monitor: TrainingMonitor) -> None:
    print(f"\n{name}: {monitor.steps} steps, events: {len(monitor.events)}")
    for reading in monitor.history.readings[::6]:
        noise = reading.noise_scale
        words = "–" if noise is None else f"{noise.value:.0f}, at least {noise.low:.0f}"
        print(
            f"  step {reading.step:4d}  batch {reading.batch_size:3d}  loss {reading.loss:.3f}  "
            f"noise scale {words}"
        )


def main() -> None:
    show("diffusion, a batch that follows", diffusion())
    show("GPT, healthy", language())
    show("GPT, the rate raised by 8% a step from step 100 on", language(rate_grows_after=100))


if __name__ == "__main__":
    main()
