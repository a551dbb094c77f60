"""Image classification: real handwritten digits, a residual network with BatchNorm, SGD.

Shows the plain case, and what is done with the answer. python examples/image_classification.py
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from batchfinder import find_batch_size


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.relu(images + self.body(images))


def data() -> TensorDataset:
    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    return TensorDataset(pixels, torch.tensor(labels))


def train(model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer) -> float:
    for inputs, targets in loader:
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1),
        Residual(24),
        nn.MaxPool2d(2),
        Residual(24),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )
    loader = DataLoader(data(), batch_size=32, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    report = find_batch_size(
        model,
        loader,
        loss_fn=nn.CrossEntropyLoss(),
        optimizer=optimizer,
        memory_limit="64MiB",  # of this example, to be quick: leave it out
        budget_seconds=12,
    )
    print(report)

    loader = report.make_loader(loader)
    for group in optimizer.param_groups:
        group["lr"] = report.learning_rate
    for epoch in range(2):
        print(f"epoch {epoch + 1}: last loss {train(model, loader, optimizer):.3f}")


if __name__ == "__main__":
    main()
