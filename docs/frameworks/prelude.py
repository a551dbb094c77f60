"""What the blocks of these pages can rely on: small objects of each framework, on a CPU."""

import tempfile

import accelerate as _accelerate
import lightning.pytorch as pl
import transformers as _transformers
from torch.nn import functional

from batchfinder.demo import digits, network


class Digits(pl.LightningModule):
    """The demo's network as a module of Lightning."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_size, self.lr = 32, 1e-3
        self.network = network()

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), self.lr)

    def train_dataloader(self):
        return DataLoader(digits(), batch_size=self.batch_size, shuffle=True)


module = Digits()
_config = _transformers.GPT2Config(vocab_size=128, n_positions=32, n_embd=32, n_layer=1, n_head=2)
_rows = [{"input_ids": (row := torch.arange(32) + n % 64), "labels": row} for n in range(128)]
trainer = _transformers.Trainer(
    _transformers.GPT2LMHeadModel(_config),
    _transformers.TrainingArguments(
        tempfile.mkdtemp(), max_steps=2, use_cpu=True, report_to=[], save_strategy="no"
    ),
    train_dataset=_rows,
)
if __page__ == "accelerate":
    accelerator = _accelerate.Accelerator(cpu=True)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
