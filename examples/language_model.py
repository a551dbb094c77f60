"""A character language model: one causal attention layer, AdamW, English from Python's own manual.

A batch counts sequences; times 64 it counts characters. python examples/language_model.py
"""

from __future__ import annotations

from pydoc_data.topics import topics

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from batchfinder import find_batch_size

LENGTH = 64


class Characters(Dataset):
    """Every stretch of 65 characters: 64 to read, each followed by the one to predict."""

    def __init__(self) -> None:
        text = "\n".join(topics[name] for name in sorted(topics))[:200_000]
        alphabet = sorted(set(text))
        place = {character: index for index, character in enumerate(alphabet)}
        self.kinds = len(alphabet)
        self.codes = torch.tensor([place[character] for character in text])

    def __len__(self) -> int:
        return (len(self.codes) - 1) // LENGTH

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        stretch = self.codes[index * LENGTH : (index + 1) * LENGTH + 1]
        return stretch[:-1], stretch[1:]


class Model(nn.Module):
    def __init__(self, kinds: int, width: int = 64) -> None:
        super().__init__()
        self.characters = nn.Embedding(kinds, width)
        self.places = nn.Embedding(LENGTH, width)
        self.layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.out = nn.Linear(width, kinds)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        seen = self.characters(codes) + self.places.weight[: codes.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(codes.shape[1])
        return self.out(self.layer(seen, src_mask=mask, is_causal=True))


def next_character(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def main() -> None:
    torch.manual_seed(0)
    text = Characters()
    model = Model(text.kinds)
    report = find_batch_size(
        model,
        DataLoader(text, batch_size=16, shuffle=True),
        loss_fn=next_character,
        optimizer=torch.optim.AdamW(model.parameters(), lr=2e-3),
        memory_limit="256MiB",  # of this example, to be quick: leave it out
        at_most=256,
        budget_seconds=15,
    )
    print(report)
    print(
        f"\n{report.global_batch_size} sequences are {report.global_batch_size * LENGTH} characters"
    )


if __name__ == "__main__":
    main()
