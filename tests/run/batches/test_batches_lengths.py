"""The batch that decides memory is the longest one, by samples or by tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import loader_cases as cases
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from batchfinder import max_batch_size, memory_limit
from batchfinder.probe import SearchSpace, probe
from batchfinder.protocols import Setup
from batchfinder.results import Limit
from batchfinder.run.batches import rebuild_loader, source_from
from batchfinder.run.batches.lengths import Extent, Lengths, extent_of
from batchfinder.run.memory import backend_for
from batchfinder.run.step import step_from
from batchfinder.run.trial import run_trial

LIMIT = "2MiB"


class LongTail(Dataset):
    """640 texts of 16 tokens, but for one in ``every``, which has 128."""

    def __init__(self, every: int = 16) -> None:
        self.lengths = [128 if i % every == 7 else 16 for i in range(640)]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Any:
        return {"input_ids": [index % 7 + 1] * self.lengths[index], "labels": index % 2}


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(8, 32)
        self.inner = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, 2)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(self.words(input_ids)).mean(1))


class LongestTogether(Sampler[int]):
    """An order that shuffling can give: the longest samples meet in one batch."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(range(len(self.lengths)), key=lambda i: -self.lengths[i]))

    def __len__(self) -> int:
        return len(self.lengths)


def train_an_epoch(size: int) -> None:
    """By hand, under the limit, in the order that is the hardest on memory."""
    texts, model = LongTail(107), Reader()
    loader = DataLoader(texts, size, sampler=LongestTogether(texts.lengths), collate_fn=cases.pad)
    optimizer = torch.optim.AdamW(model.parameters())
    with memory_limit(LIMIT):
        for batch in loader:
            optimizer.zero_grad()
            output = model(batch["input_ids"])
            nn.functional.cross_entropy(output, batch["labels"]).backward()
            optimizer.step()


def test_the_maximum_from_the_longest_batch_survives_the_longest_batch() -> None:
    loader = DataLoader(LongTail(107), 8, shuffle=True, collate_fn=cases.pad)
    found = max_batch_size(Reader(), loader, memory_limit=LIMIT).max_batch_size
    train_an_epoch(found)
    with pytest.raises(torch.OutOfMemoryError):
        train_an_epoch(found + max(2, found // 10))


def test_the_maximum_from_average_batches_does_not() -> None:
    """The contrast: ordinary batches, of which few hold one of the six longest samples."""
    loader = DataLoader(LongTail(107), 8, shuffle=True, collate_fn=cases.pad)
    model = Reader()
    step = step_from(model, optimizer=torch.optim.AdamW(model.parameters()))
    step.prime()
    ordinary = source_from(loader).as_ordinary()
    memory = backend_for(step.device, LIMIT)
    trials = probe(
        lambda size: run_trial(Setup(step, ordinary, memory), size),
        SearchSpace(ceiling=640, limit_bytes=memory.limit_bytes()),
    )
    found = max(trial.batch_size for trial in trials if trial.fits)
    with pytest.raises(torch.OutOfMemoryError):
        train_an_epoch(found)


def source(**options: Any) -> Any:
    return source_from(DataLoader(LongTail(), 8, shuffle=True, collate_fn=cases.pad), **options)


def test_trials_get_the_longest_samples_and_timing_ordinary_ones() -> None:
    long, ordinary = source().take(32), source().ordinary(32)
    assert long["input_ids"].ne(0).sum() == 32 * 128
    assert ordinary["input_ids"].ne(0).sum() < 32 * 64
    assert source().varies
    assert torch.equal(source().as_ordinary().take(32)["input_ids"], ordinary["input_ids"])


def test_lengths_that_the_batch_does_not_show_do_not_count() -> None:
    def crop(samples: list[Any]) -> torch.Tensor:
        return torch.tensor([sample["input_ids"][:8] for sample in samples])

    cropped = source_from(DataLoader(LongTail(), 8, collate_fn=crop))
    assert not cropped.varies
    assert torch.equal(cropped.take(5), cropped.ordinary(5))


def test_texts_that_the_collate_function_turns_into_tokens() -> None:
    words = ["a" * (50 if i == 17 else 5) for i in range(64)]

    def tokenize(samples: list[str]) -> torch.Tensor:
        width = max(map(len, samples))
        return torch.tensor([[ord(c) for c in s.ljust(width)] for s in samples])

    texts = source_from(DataLoader(words, 8, collate_fn=tokenize))  # type: ignore[arg-type]
    assert texts.take(1).shape == (1, 50)


def test_the_share_that_was_scanned_is_said() -> None:
    class Endless(LongTail):
        def __init__(self) -> None:
            self.lengths = [16 + i % 3 for i in range(10_000)]

    assert source().notes == ()
    sampled = source_from(DataLoader(Endless(), 8, collate_fn=cases.pad))
    assert any("4,096 samples (41.0% of the dataset)" in said for said in sampled.notes)


def budget(tokens: int) -> DataLoader:
    texts = cases.Texts(60)
    sampler = cases.TokenBudget(texts.lengths, tokens)
    return DataLoader(texts, batch_sampler=sampler, collate_fn=cases.pad)


def test_a_token_budget_is_counted_in_tokens() -> None:
    tokens = source_from(budget(128))
    assert (tokens.unit, tokens.base_batch_size) == ("tokens", 128)
    assert tokens.take(128)["input_ids"].shape == (2, 64)
    assert tokens.count(tokens.take(192)) == 192
    assert tokens.smallest == 64
    assert tokens.ordinary(128)["input_ids"].numel() <= 128


@pytest.mark.parametrize("size", [64, 100, 1000])
def test_a_token_budget_is_rebuilt(size: int) -> None:
    rebuilt = [b["input_ids"].shape for b in rebuild_loader(budget(128), size)]
    by_hand = [b["input_ids"].shape for b in budget(size)]
    assert rebuilt == by_hand
    assert all(rows * width <= size or rows == 1 for rows, width in rebuilt)


def test_draws_stay_within_a_token_budget_and_do_not_repeat() -> None:
    tokens = source_from(budget(128))
    tokens.rewind(2)
    drawn = [tokens.draw(128) for _ in range(3)]
    assert all(batch["input_ids"].numel() <= 128 for batch in drawn)
    assert all(batch["input_ids"].shape[0] >= 2 for batch in drawn)


def test_buckets_are_rebuilt_with_the_longest_known() -> None:
    texts = cases.Texts(60)
    loader = DataLoader(texts, batch_sampler=cases.Buckets(texts.lengths, 4), collate_fn=cases.pad)
    assert source_from(loader).take(2)["input_ids"].shape == (2, 64)


class Ticking:
    """Samples of ``lengths``; reading one takes a second."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths, self.now = lengths, 0.0

    def extents(self, first: int, count: int) -> list[Extent]:
        there = self.lengths[first : first + count]
        self.now += len(there)
        return [extent_of(torch.zeros(length)) for length in there]

    def build(self, positions: Sequence[int]) -> torch.Tensor:
        samples = [torch.zeros(self.lengths[position]) for position in positions]
        return nn.utils.rnn.pad_sequence(samples)

    def scan(self, until: float, block: int = 1) -> Lengths:
        return Lengths.scan(
            len(self.lengths),
            self.extents,
            self.build,
            clock=lambda: self.now,
            until=until,
            block=block,
        )


@pytest.mark.parametrize(
    ("lengths", "until", "scanned", "said"),
    [
        ([3] * 100, 5.0, 5, True),
        ([3] * 100, 0.0, 1, True),
        ([3] * 100, 60.0, 32, False),  # all alike for long enough
        ([3, 4] * 50, 40.0, 32, False),  # lengths vary, and 5 s have passed
        ([3, 4] * 50, 9.0, 9, True),
        ([3] * 4, 4.0, 4, False),  # all there are
        ([3] * 4, 9.0, 4, False),
    ],
)
def test_a_scan_stops_in_time_and_says_so(
    lengths: list[int], until: float, scanned: int, said: bool
) -> None:
    found = Ticking(lengths).scan(until)
    assert (found.scanned, found.cut_short) == (scanned, said)
    assert any("budget left time" in note for note in found.notes) is said


def test_a_scan_in_blocks_finds_the_same() -> None:
    lengths = [3, 4, 9, 5] * 10
    assert Ticking(lengths).scan(1e9, 8).longest_first == Ticking(lengths).scan(1e9).longest_first


class Pictures(Dataset):
    """As many tall as wide, padded together to a square; the largest by area are neither."""

    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: int) -> Any:
        height, width = (48, 16) if index % 2 else (16, 48)
        if index % 20 == 0:
            height, width = 30, 30
        return torch.zeros(3, height, width)


def pad_both(samples: list[torch.Tensor]) -> torch.Tensor:
    height, width = (max(sample.shape[side] for sample in samples) for side in (1, 2))
    return torch.stack(
        [nn.functional.pad(s, (0, width - s.shape[2], 0, height - s.shape[1])) for s in samples]
    )


@pytest.mark.parametrize("size", [2, 3, 40])
def test_padded_to_two_maxima_the_largest_batch_holds_both(size: int) -> None:
    pictures = source_from(DataLoader(Pictures(), 4, collate_fn=pad_both))
    assert pictures.take(size).shape == (size, 3, 48, 48)
    assert pictures.take(1).shape == (1, 3, 30, 30)


def test_samples_of_one_area_and_two_shapes_vary() -> None:
    class TallAndWide(Pictures):
        def __getitem__(self, index: int) -> Any:
            return torch.zeros(3, *((48, 16) if index % 2 else (16, 48)))

    assert source_from(DataLoader(TallAndWide(), 4, collate_fn=pad_both)).varies


class Endless(IterableDataset):
    def __init__(self, count: int) -> None:
        self.count, self.read = count, 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        for _ in range(self.count):
            self.read += 1
            yield torch.zeros(3)


def test_a_stream_is_read_only_as_far_as_it_is_looked_at() -> None:
    stream = Endless(10**6)
    source = source_from(DataLoader(stream, batch_size=4), patience_seconds=0.0)
    assert source.ceiling is None
    source.take(2)
    assert stream.read <= 3
    assert any("budget left time" in note for note in source.notes)


def test_the_end_of_a_short_stream_is_met_where_there_is_time() -> None:
    assert source_from(DataLoader(Endless(700), batch_size=4)).ceiling == 700


def test_a_stream_that_ends_after_it_was_looked_at_bounds_the_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Larger batches, tried on repeated samples, are none that the loader can fill."""
    for constant in ("READING_AHEAD_SECONDS", "READING_SECONDS", "READING_SHARE"):
        monkeypatch.setattr(
            f"batchfinder.run.batches.source.{constant}", math.inf
        )  # however busy the machine is
    model = nn.Linear(3, 1)
    found = max_batch_size(
        model,
        DataLoader(Endless(5000), batch_size=4),
        train_step=lambda model, batch: model(batch).mean(),
        memory_limit="2MiB",
    )
    assert found.max_batch_size == 5000
    assert found.limited_by is Limit.DATASET
