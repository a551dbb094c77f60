"""A gradient folded to a thousand numbers that keep its inner products."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

_FOLD = 2**20
"""Width of the first fold: 12 MiB with its signs, whatever the size of the model."""


class Sketch:
    """A random linear map from gradients (P numbers) to ``size`` numbers, kept on each device.

    Inner products survive in the mean, with a relative error near √(2 / size). Every number gets
    a random sign; rows of up to 2²⁰ numbers are added up, and then its columns. A sign for each
    number, not only for each row, matters: a linear layer's gradient is nearly of rank one, so
    that its rows are alike. Each row takes its signs from another place of one table twice as
    long, so that a large model needs no table of its own size. Draws from its own generator, and
    leaves the global ones alone.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], size: int, seed: int = 0) -> None:
        lengths = [_real_numbers(parameter) for parameter in parameters]
        total = sum(lengths)
        self.size = size
        self.width = max(min(_FOLD // size, -(-total // size)), 1) * size
        self.starts = [sum(lengths[:index]) for index in range(len(lengths))]
        generator = torch.Generator().manual_seed(seed)
        rows = -(-total // self.width)
        self._offsets = torch.randint(0, self.width, (rows,), generator=generator).tolist()
        self._signs = torch.randint(0, 2, (2 * self.width,), generator=generator).float() * 2 - 1
        self._folds: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def add(self, index: int, gradient: torch.Tensor) -> None:
        """Add the gradient of parameter ``index``."""
        flat = _flat(gradient)
        fold, signs = self._at(flat.device)
        done = 0
        while done < len(flat):
            row, column = divmod(self.starts[index] + done, self.width)
            count = min(self.width - column, len(flat) - done)
            first = self._offsets[row] + column
            piece = fold[column : column + count]
            piece.addcmul_(flat[done : done + count], signs[first : first + count])
            done += count

    def finish(self) -> np.ndarray:
        """The sketch of what was added since the last ``finish``, shape (size,), float64."""
        total = np.zeros(self.size)
        for fold, _ in self._folds.values():
            total += fold.view(-1, self.size).sum(0).cpu().double().numpy()
            fold.zero_()
        return total

    def _at(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        if device not in self._folds:
            fold = torch.zeros(self.width, device=device)
            self._folds[device] = (fold, self._signs.to(device))
        return self._folds[device]


def _real_numbers(parameter: torch.Tensor) -> int:
    return parameter.numel() * (2 if parameter.is_complex() else 1)


def _flat(gradient: torch.Tensor) -> torch.Tensor:
    if gradient.layout != torch.strided:
        gradient = gradient.to_dense()
    if gradient.is_complex():
        gradient = torch.view_as_real(gradient)
    return gradient.reshape(-1).float()
