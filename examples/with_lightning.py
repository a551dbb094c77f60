"""Lightning: the callback finds batch size and learning rate as ``fit`` begins, then trains.

Needs lightning. python examples/with_lightning.py
"""

from __future__ import annotations

import logging
import warnings

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from batchfinder.integrations.lightning import BatchFinder


class Digits(pl.LightningModule):
    def __init__(self, batch_size: int = 16, lr: float = 1e-3) -> None:
        super().__init__()
        self.batch_size, self.lr = batch_size, lr
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        inputs, targets = batch
        return nn.functional.cross_entropy(self.net(inputs), targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), self.lr)

    def train_dataloader(self) -> DataLoader:
        images, labels = load_digits(return_X_y=True)
        data = TensorDataset(torch.tensor(images).float() / 16, torch.tensor(labels))
        return DataLoader(data, batch_size=self.batch_size, shuffle=True)


def main() -> None:
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    pl.seed_everything(0, verbose=False)
    # The limits are of this example, to be quick: leave them out.
    finder = BatchFinder(memory_limit="32MiB", budget_seconds=20)
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        callbacks=[finder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Digits()
    trainer.fit(module)
    print(finder.report)
    for setting in finder.applied:
        print(setting)
    print(f"trained {trainer.global_step} steps at batch size {module.batch_size}")


if __name__ == "__main__":
    main()
