"""The bare call on a small GPT, no arguments: how long until an answer, and with how much memory?

A character-level GPT of 4 layers, width 128 and context 128 with batches of 64 on the CPU. Nothing
limits the call: neither memory nor time nor sizes. To be read: seconds (at most 90 on two quiet
cores) and the process's peak memory (below 4 GiB). It reports and asserts nothing::

    python tests/benchmarks/patience.py
"""

from __future__ import annotations

import resource
import sys
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from batchfinder import find_batch_size
from batchfinder.results import Event, Measurement, StageStarted, Trial, TrialStarted

LAYERS, WIDTH, CONTEXT, BATCH, CHARACTERS = 4, 128, 128, 64, 65


class SmallGpt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(CHARACTERS, WIDTH)
        self.position = nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CHARACTERS)
        mask = nn.Transformer.generate_square_subsequent_mask(CONTEXT)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.token(tokens) + self.position(positions)
        return self.head(self.body(hidden, mask=self.mask, is_causal=True)).transpose(1, 2)


def training() -> tuple[nn.Module, DataLoader[tuple[torch.Tensor, ...]]]:
    """A chain of characters that can be learned: each follows from the one before, mostly."""
    generator = torch.Generator().manual_seed(0)
    successor = torch.randperm(CHARACTERS, generator=generator)
    text = torch.randint(CHARACTERS, (20_000, CONTEXT + 1), generator=generator)
    for place in range(1, CONTEXT + 1):
        follows = torch.rand(len(text), generator=generator) < 0.8
        text[follows, place] = successor[text[follows, place - 1]]
    dataset = TensorDataset(text[:, :-1].contiguous(), text[:, 1:].contiguous())
    torch.manual_seed(0)
    return SmallGpt(), DataLoader(dataset, batch_size=BATCH, shuffle=True)


def main() -> None:
    model, loader = training()
    started = time.perf_counter()
    longest, last = 0.0, started

    def observe(event: Event) -> None:
        nonlocal longest, last
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
        if isinstance(event, StageStarted | TrialStarted | Trial | Measurement):
            print(f"{now - started:7.1f} s  {event}"[:150], file=sys.stderr, flush=True)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    report = find_batch_size(
        model, loader, loss_fn=nn.CrossEntropyLoss(), optimizer=optimizer, observe=observe
    )
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(report)
    print(
        f"\n{seconds:.0f} s in all; silent for at most {longest:.0f} s; peak memory {peak:.2f} GiB"
    )
    print(", ".join(f"{stage} {taken:.0f} s" for stage, taken in report.seconds))
    print(f"{torch.get_num_threads()} threads; largest size run {report.max_batch_size}")


if __name__ == "__main__":
    main()
