"""Accelerate: prepared objects go in, a prepared loader comes out.

Needs accelerate. python examples/with_accelerate.py
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from batchfinder.integrations.accelerate import apply, find_batch_size


def main() -> None:
    set_seed(0)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images).float() / 16, torch.tensor(labels))
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss_fn = nn.CrossEntropyLoss()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, optimizer, loader = accelerator.prepare(
        model, optimizer, DataLoader(data, batch_size=16, shuffle=True)
    )
    report = find_batch_size(
        accelerator,
        model,
        optimizer,
        loader,
        loss_fn=loss_fn,
        max_grad_norm=1.0,
        memory_limit="32MiB",  # of this example, to be quick: leave it out
        budget_seconds=20,
    )
    print(report)
    loader, applied = apply(report, accelerator, loader, optimizer)
    for setting in applied:
        print(setting)
    for inputs, targets in loader:
        with accelerator.accumulate(model):
            loss = loss_fn(model(inputs), targets)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    print(f"trained an epoch; the last loss is {loss.item():.3f}")


if __name__ == "__main__":
    main()
