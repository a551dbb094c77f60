"""Texts of unequal length, padded to the longest of a batch: which manual page is a paragraph from?

Memory is probed with the longest paragraphs, throughput is timed with ordinary ones.
python examples/variable_length.py
"""

from __future__ import annotations

from pydoc_data.topics import topics

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from batchfinder import find_batch_size

LONGEST, BUCKETS = 200, 4096


def paragraphs() -> tuple[list[tuple[torch.Tensor, int]], int]:
    """Paragraphs as words hashed to numbers, each with the number of its page."""
    pages = sorted(topics, key=lambda name: -len(topics[name]))[:20]
    found = []
    for label, name in enumerate(pages):
        for paragraph in topics[name].split("\n\n"):
            words = paragraph.split()[:LONGEST]
            if len(words) >= 3:
                codes = [1 + sum(map(ord, word)) * 31 % (BUCKETS - 1) for word in words]
                found.append((torch.tensor(codes), label))
    return found, len(pages)


def collate(samples: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    texts, labels = zip(*samples, strict=True)
    return pad_sequence(list(texts), batch_first=True), torch.tensor(labels)


class Reader(nn.Module):
    def __init__(self, pages: int, width: int = 64) -> None:
        super().__init__()
        self.words = nn.Embedding(BUCKETS, width, padding_idx=0)
        self.phrases = nn.Conv1d(width, width, 5, padding=2)
        self.out = nn.Linear(width, pages)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        phrases = self.phrases(self.words(codes).transpose(1, 2)).relu()
        there = (codes != 0).unsqueeze(1)
        return self.out((phrases * there).sum(2) / there.sum(2))


def main() -> None:
    torch.manual_seed(0)
    texts, pages = paragraphs()
    lengths = [len(words) for words, _ in texts]
    print(f"{len(texts)} paragraphs of {min(lengths)} to {max(lengths)} words")
    model = Reader(pages)
    report = find_batch_size(
        model,
        DataLoader(texts, batch_size=16, shuffle=True, collate_fn=collate),
        loss_fn=nn.CrossEntropyLoss(),
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
        memory_limit="96MiB",  # of this example, to be quick: leave it out
        budget_seconds=15,
    )
    print(report)


if __name__ == "__main__":
    main()
