"""A frozen backbone with low-rank adapters: digits 0–4 are known, 5–9 are to be learnt.

Only what is trained enters the gradients, the optimizer's state and the noise scale; the frozen
rest still costs memory and time. python examples/adapters.py
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from batchfinder import find_batch_size
from batchfinder.demo import digits


class LowRank(nn.Module):
    """A frozen linear layer plus a trained product of two thin matrices (Hu et al. 2021)."""

    def __init__(self, frozen: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(requires_grad=False)
        self.down = nn.Linear(frozen.in_features, rank, bias=False)
        self.up = nn.Linear(rank, frozen.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.frozen(values) + self.up(self.down(values))


def part(dataset: torch.utils.data.TensorDataset, labels: range) -> Subset:
    return Subset(dataset, [i for i, label in enumerate(dataset.tensors[1]) if label in labels])


def train(model: nn.Module, loader: DataLoader, rate: float, epochs: int) -> float:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate)
    for _ in range(epochs):
        for images, labels in loader:
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return loss.item()


def main() -> None:
    torch.manual_seed(0)
    known, new = part(digits(), range(5)), part(digits(), range(5, 10))
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
        nn.Linear(256, 10),
    )  # fmt: skip
    print(f"backbone: loss {train(model, DataLoader(known, 32, shuffle=True), 1e-3, 5):.3f}")

    for index in (1, 3, 5):
        model[index] = LowRank(model[index])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    report = find_batch_size(
        model,
        DataLoader(new, batch_size=16, shuffle=True),
        loss_fn=nn.CrossEntropyLoss(),
        optimizer=torch.optim.AdamW(trained, lr=2e-3),
        memory_limit="8MiB",  # of this example, to be quick: leave it out
        budget_seconds=10,
    )
    print(report)
    loader = report.make_loader(DataLoader(new, batch_size=16, shuffle=True))
    print(f"adapted: loss {train(model, loader, report.learning_rate, 5):.3f}")


if __name__ == "__main__":
    main()
