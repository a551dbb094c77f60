"""A call with default arguments on a small GPT: duration and memory.

A character-level GPT of 4 layers, width 128 and context 128 with batches of 64 on the CPU. Nothing
limits the call: neither memory nor time nor sizes. To be read: seconds (at most 90), without those
in which the process waited for a processor and with one thread (``quiet.py``), the longest time in
which nothing was printed, and the process's peak memory (below 4 GiB)::

    python tests/benchmarks/patience.py
"""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch
from quiet import Said, plain_clock
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from batchfinder import find_batch_size

LAYERS, WIDTH, CONTEXT, BATCH, CHARACTERS = 4, 128, 128, 64, 65


class SmallGpt(nn.Module):
    def __init__(self, layers: int = LAYERS, width: int = WIDTH, context: int = CONTEXT) -> None:
        super().__init__()
        self.token = nn.Embedding(CHARACTERS, width)
        self.position = nn.Embedding(context, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, CHARACTERS)
        mask = nn.Transformer.generate_square_subsequent_mask(context)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.token(tokens) + self.position(positions)
        return self.head(self.body(hidden, mask=self.mask, is_causal=True)).transpose(1, 2)


def training(context: int = CONTEXT) -> tuple[nn.Module, DataLoader[tuple[torch.Tensor, ...]]]:
    """A chain of characters that can be learned: each follows from the one before, mostly."""
    generator = torch.Generator().manual_seed(0)
    successor = torch.randperm(CHARACTERS, generator=generator)
    text = torch.randint(CHARACTERS, (20_000, context + 1), generator=generator)
    for place in range(1, context + 1):
        follows = torch.rand(len(text), generator=generator) < 0.8
        text[follows, place] = successor[text[follows, place - 1]]
    dataset = TensorDataset(text[:, :-1].contiguous(), text[:, 1:].contiguous())
    torch.manual_seed(0)
    return SmallGpt(context=context), DataLoader(dataset, batch_size=BATCH, shuffle=True)


def main() -> None:
    torch.set_num_threads(1)
    model, loader = training()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    errors, sys.stderr = sys.stderr, Said()
    said: Any = sys.stderr
    started, plainly = time.perf_counter(), plain_clock()
    report = find_batch_size(model, loader, loss_fn=nn.CrossEntropyLoss(), optimizer=optimizer)
    said.pause()
    seconds, with_others = time.perf_counter() - started, plain_clock() - plainly
    sys.stderr = errors
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print("".join(said.lines), report, sep="\n")
    print(
        f"\n{seconds:.0f} s ({with_others:.0f} s with what ran beside it), silent for at most "
        f"{said.longest:.0f} s, peak memory {peak:.2f} GiB, largest size run "
        f"{report.max_batch_size}"
    )
    print(", ".join(f"{stage} {taken:.0f} s" for stage, taken in report.seconds))


if __name__ == "__main__":
    main()
