"""What a search has shown: fragmentation, DDP's buckets, and sentences with numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from replayed_gpu import EXPANDABLE, LIMIT, MACHINE, ReplayedGpu

from batchfinder.probe.loop import about_fragmentation, about_time, with_line
from batchfinder.results import Limit, MemoryBreakdown, Outcome, ProbeResult, Trial

MIB = 2**20
HELD = MemoryBreakdown(
    parameter_bytes=102_228_128,
    buffer_bytes=0,
    gradient_bytes=102_228_128,
    optimizer_bytes=102_228_128,
    other_bytes=0,
    limit_bytes=LIMIT,
)


def trials(conf: str) -> tuple[Trial, ...]:
    outside = MACHINE["outside_bytes"]
    return tuple(
        Trial(
            size,
            Outcome.FITS if row["ok"] else Outcome.OUT_OF_MEMORY,
            row["alloc"] + outside,
            reserved_bytes=row["reserved"] + outside,
        )
        for size, row in ReplayedGpu(conf).rows.items()
    )


def test_fragmentation_is_said_with_the_size_that_would_fit_without() -> None:
    memory = with_line(HELD, trials(""))
    assert memory.fragmentation_bytes == 23_160_946_688 - 22_767_970_816
    (said,) = about_fragmentation(memory, 505, may_expand=True)
    assert said.code == "probe.expandable"
    assert said == (
        "at 505 the allocator holds 375 MiB in blocks that no tensor uses (fragmentation): about "
        "514 may fit with `PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True`"
    )
    (plain,) = about_fragmentation(memory, 505, may_expand=False)
    assert plain.code == "probe.fragmented" and "would fit" not in plain


def test_nothing_is_said_where_nothing_is_in_pieces() -> None:
    memory = with_line(HELD, trials(EXPANDABLE))
    assert memory.fragmentation_bytes < 0.01 * LIMIT
    assert about_fragmentation(memory, 512, may_expand=False) == ()


def test_ddp_takes_the_gradients_once_more() -> None:
    probed = ProbeResult(trials(""), with_line(HELD, trials("")), Limit.MEMORY)
    assert probed.max_batch_size == 505
    assert probed.max_batch_size_with_ddp == 505 - 3  # 97 MiB at 42 MiB a sample
    roomy = replace(
        probed, limited_by=Limit.DATASET, memory=replace(probed.memory, limit_bytes=10**11)
    )
    assert roomy.max_batch_size_with_ddp == 505
    unknown = replace(probed, memory=replace(probed.memory, per_sample_bytes=0.0))
    assert unknown.max_batch_size_with_ddp is None


def test_time_is_said_as_a_size_and_its_seconds() -> None:
    (said,) = about_time((8192, 40.0))
    assert said == "larger batches were not tried: a step at 8,192 would take 40 s"
    assert about_time(None) == ()


@pytest.mark.parametrize(
    ("device", "environment", "expected"),
    [
        ("cuda:0", {}, True),
        ("cuda:0", {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}, False),
        ("cuda:0", {"PYTORCH_ALLOC_CONF": "max_split_size_mb:64,expandable_segments: true"}, False),
        ("cuda:0", {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False"}, True),
        ("cpu", {}, False),
    ],
)
def test_expandable_segments_are_advised_where_they_are_off(
    device: str, environment: dict[str, str], expected: bool
) -> None:
    import torch

    from batchfinder.run.memory.device import may_expand

    assert may_expand(torch.device(device), environment) is expected
