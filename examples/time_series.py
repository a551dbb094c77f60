"""Forecasting: yearly sunspots since 1700, a recurrent network, RMSprop.

A small data set binds: a batch is never larger than it. python examples/time_series.py
"""

from __future__ import annotations

import torch
from statsmodels.datasets import sunspots
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from batchfinder import find_batch_size

YEARS = 24


class Forecaster(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.GRU(1, 48, batch_first=True)
        self.out = nn.Linear(48, 1)

    def forward(self, years: torch.Tensor) -> torch.Tensor:
        states, _ = self.memory(years)
        return self.out(states[:, -1])


def data() -> TensorDataset:
    series = torch.tensor(sunspots.load_pandas().data["SUNACTIVITY"].to_numpy()).float()
    series = (series - series.mean()) / series.std()
    windows = series.unfold(0, YEARS + 1, 1)
    return TensorDataset(windows[:, :-1, None], windows[:, -1:])


def main() -> None:
    torch.manual_seed(0)
    model, dataset = Forecaster(), data()
    print(f"{len(dataset)} windows of {YEARS} years")
    report = find_batch_size(
        model,
        DataLoader(dataset, batch_size=8, shuffle=True),
        loss_fn=nn.MSELoss(),
        optimizer=torch.optim.RMSprop(model.parameters(), lr=1e-3),
        memory_limit="64MiB",  # of this example, to be quick: leave it out
        budget_seconds=10,
    )
    print(report)


if __name__ == "__main__":
    main()
