"""Two processes that train under a framework and are watched by its callback; run by a test.

``python monitor_callback_ranks.py lightning OUT`` starts both by itself, the other framework's
processes are started with RANK and WORLD_SIZE set. Each writes what it knows to OUT and its rank.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset


def data() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    inputs = torch.randn(2560, 8)
    return inputs, (inputs[:, :3] + torch.randn(2560, 3)).argmax(1)


def write(out: str, rank: int, monitor: Any) -> None:
    noise = monitor.noise_scale
    found = {
        "noise": None if noise is None else [noise.value, noise.low, noise.high],
        "micro_batch": noise and noise.micro_batch,
        "caveats": [caveat.code for caveat in monitor.caveats],
        "looks": [reading.step for reading in monitor.history.readings],
    }
    Path(f"{out}{rank}").write_text(json.dumps(found))


def lightning(out: str) -> None:
    import lightning.pytorch as pl

    from batchfinder.integrations.lightning import MonitorCallback

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(8, 3)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self.inner(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.01)

    class Write(pl.Callback):
        def on_train_end(self, trainer: Any, module: Any) -> None:
            write(out, trainer.global_rank, callback.monitor)

    callback = MonitorCallback(every=2)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        max_epochs=1,
        enable_model_summary=False,
        callbacks=[callback, Write()],
        **quiet,
    )
    trainer.fit(Module(), DataLoader(TensorDataset(*data()), batch_size=16, shuffle=True))


def transformers(out: str) -> None:
    from transformers import Trainer, TrainingArguments

    from batchfinder.integrations.transformers import MonitorCallback

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(8, 3)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.inner(x)
            loss = torch.nn.functional.cross_entropy(logits, labels)
            return {"loss": loss, "logits": logits}

    callback = MonitorCallback(every=2)
    rows = [{"x": x, "labels": label} for x, label in zip(*data(), strict=True)]
    arguments = TrainingArguments(
        f"{out}-trainer",
        per_device_train_batch_size=16,
        max_steps=60,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        ddp_backend="gloo",
    )
    trainer = Trainer(Model(), arguments, train_dataset=rows, callbacks=[callback])
    trainer.train()
    write(out, int(os.environ["RANK"]), callback.monitor)


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    {"lightning": lightning, "transformers": transformers}[sys.argv[1]](sys.argv[2])
