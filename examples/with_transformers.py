"""Transformers: a small GPT on the text of Python's own documentation, byte by byte.

Needs transformers and accelerate. python examples/with_transformers.py
"""

from __future__ import annotations

import pydoc_data.topics
import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from batchfinder.integrations.transformers import find_batch_size

LENGTH = 64


def rows() -> list[dict[str, torch.Tensor]]:
    text = "\n".join(pydoc_data.topics.topics.values()).encode()
    parts = [text[i : i + LENGTH] for i in range(0, 1000 * LENGTH, LENGTH)]
    ids = [torch.tensor([byte % 128 for byte in part]) for part in parts]
    return [{"input_ids": row, "labels": row} for row in ids]


def main() -> None:
    set_seed(0)
    config = GPT2Config(vocab_size=128, n_positions=LENGTH, n_embd=64, n_layer=2, n_head=4)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            GPT2LMHeadModel(config),
            TrainingArguments(
                folder,
                per_device_train_batch_size=8,
                learning_rate=1e-3,
                max_steps=30,
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
                save_strategy="no",
                logging_strategy="no",
            ),
            train_dataset=rows(),
        )
        # The limits are of this example, to be quick: leave them out.
        report = find_batch_size(trainer, apply=True, memory_limit="96MiB", budget_seconds=25)
        print(report)
        trained = trainer.train()
    size = trainer.args.per_device_train_batch_size
    print(f"trained {trained.global_step} steps at batch size {size}")


if __name__ == "__main__":
    main()
