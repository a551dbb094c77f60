"""What the host has free, control groups included; and the real memory of the CPU as a device."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from memory_cases import CPU, FLOAT, PlainStep, linear_training, rise_by_profiler, whole_step
from memory_models import TRAININGS

from batchfinder.protocols import Setup
from batchfinder.results import Outcome
from batchfinder.run.memory import backend_for
from batchfinder.run.memory import host as host_module
from batchfinder.run.memory.cpu import HostMemory, highest
from batchfinder.run.memory.host import host_budget, host_free
from batchfinder.run.torch_internals.storages import CpuAllocations
from batchfinder.run.trial import run_trial

GIB = 1024**3


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    free = SimpleNamespace(available=16 * GIB)
    monkeypatch.setattr(host_module, "psutil", SimpleNamespace(virtual_memory=lambda: free))


def write(root: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def version_2(
    root: Path, groups: dict[str, tuple[object, int]], own: str, shown: str = "/"
) -> None:
    write(root, {"proc/self/cgroup": f"0::{own}"})
    write(
        root,
        {"proc/self/mountinfo": f"30 23 0:26 {shown} /sys/fs/cgroup rw - cgroup2 cgroup2 rw"},
    )
    for group, (limit, used) in groups.items():
        folder = f"sys/fs/cgroup{group}"
        write(root, {f"{folder}/memory.max": limit, f"{folder}/memory.current": used})


def test_without_control_groups_the_machine_decides(tmp_path: Path) -> None:
    assert host_free(tmp_path) == 16 * GIB
    assert host_budget(tmp_path) == int(0.5 * 16 * GIB)


def test_the_smallest_of_all_ancestors_counts(tmp_path: Path) -> None:
    version_2(
        tmp_path,
        {"/a/b/c": ("max", GIB), "/a/b": (8 * GIB, 3 * GIB), "/a": (6 * GIB, 4 * GIB)},
        "/a/b/c",
    )
    assert host_free(tmp_path) == 2 * GIB


def test_no_limit_is_no_limit(tmp_path: Path) -> None:
    version_2(tmp_path, {"/a": ("max", GIB)}, "/a")
    assert host_free(tmp_path) == 16 * GIB


def test_file_pages_that_can_be_dropped_are_free(tmp_path: Path) -> None:
    version_2(tmp_path, {"/a": (4 * GIB, 4 * GIB)}, "/a")
    write(tmp_path, {"sys/fs/cgroup/a/memory.stat": f"anon 1\ninactive_file {GIB}\nfile 9"})
    assert host_free(tmp_path) == GIB


def test_a_group_that_is_over_its_limit_has_nothing_free(tmp_path: Path) -> None:
    version_2(tmp_path, {"/a": (GIB, 2 * GIB)}, "/a")
    assert host_free(tmp_path) == 0


def test_in_a_container_the_mount_shows_the_own_group_as_the_top(tmp_path: Path) -> None:
    version_2(tmp_path, {"": (2 * GIB, GIB)}, "/docker/abc", shown="/docker/abc")
    assert host_free(tmp_path) == GIB


def test_in_a_name_space_a_path_that_is_not_there_means_the_top(tmp_path: Path) -> None:
    version_2(tmp_path, {"": (2 * GIB, GIB)}, "/../other/unseen")
    assert host_free(tmp_path) == GIB


@pytest.mark.parametrize("limit", [3 * GIB, 9223372036854771712])
def test_version_1(tmp_path: Path, limit: int) -> None:
    write(tmp_path, {"proc/self/cgroup": "5:cpuset:/x\n4:memory:/jobs/7\n0::/"})
    write(
        tmp_path,
        {
            "proc/self/mountinfo": "35 1 0:32 / /sys/fs/cgroup/memory rw - cgroup none rw,memory",
            "sys/fs/cgroup/memory/jobs/7/memory.limit_in_bytes": limit,
            "sys/fs/cgroup/memory/jobs/7/memory.usage_in_bytes": 2 * GIB,
            "sys/fs/cgroup/memory/jobs/7/memory.stat": f"cache 1\ntotal_inactive_file {GIB // 2}",
        },
    )
    expected = GIB + GIB // 2 if limit == 3 * GIB else 16 * GIB
    assert host_free(tmp_path) == expected


def test_files_that_cannot_be_understood_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, {"proc/self/cgroup": "0::/a", "proc/self/mountinfo": "broken\n1 2 3 - x"})
    assert host_free(tmp_path) == 16 * GIB


def test_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "psutil", psutil)
    assert 0 < host_budget() < host_free() <= psutil.virtual_memory().total


def real(budget: int, step: PlainStep | None = None) -> HostMemory:
    held = None if step is None else list(step.holdings())
    return HostMemory(CPU, held, budget=lambda: budget)


def test_the_limit_is_what_is_held_and_a_budget() -> None:
    step, source = linear_training(100)
    weight = 100 * 100 * FLOAT
    assert real(10**6, step).limit_bytes() == weight + 10**6
    memory = real(10**6)
    assert memory.limit_bytes() == 10**6
    trial = run_trial(Setup(step, source, memory), 4)
    batch = 2 * 4 * 100 * FLOAT
    assert memory.limit_bytes() == weight + batch + 10**6
    assert trial.fits and trial.peak_bytes is not None and trial.peak_bytes > 2 * weight


def test_it_stops_before_the_kernel_would() -> None:
    step, source = linear_training(100)
    memory = real(10**6, step)
    trial = run_trial(Setup(step, source, memory), 2000)
    assert trial.outcome is Outcome.OUT_OF_MEMORY
    assert not memory.is_simulated


def test_a_data_set_in_memory_is_not_charged() -> None:
    data = torch.zeros(10**6)
    memory = real(10**6)
    with memory.watch():
        kept = data[:10] + data[10:20]
    assert memory.peak_bytes() == 10 * FLOAT, kept


def test_without_a_limit_a_cpu_gets_its_real_memory() -> None:
    memory = backend_for(CPU)
    assert not memory.is_simulated
    assert 0 < memory.limit_bytes() <= int(0.5 * 16 * GIB)


def test_scratch_that_kernels_take_is_found_and_kept() -> None:
    """An LSTM on the CPU takes memory inside one operator; the trial's peak includes it."""
    training = TRAININGS["LSTM"]
    step, source = training.make()
    batch = source.take(32)
    whole_step(step, batch)
    true = rise_by_profiler(lambda: whole_step(step, batch))
    held = [*step.holdings(), *batch]
    at_rest = sum(tensor.numel() * tensor.element_size() for tensor in held)
    simulated = run_trial(Setup(step, source, backend_for(CPU, "1GiB")), 32).peak_bytes
    memory = real(GIB)
    corrected = run_trial(Setup(step, source, memory), 32).peak_bytes
    assert simulated is not None and corrected is not None
    assert simulated < 0.95 * (at_rest + true)
    assert corrected == pytest.approx(at_rest + true, rel=0.02)
    # a later trial of about this size is corrected without being profiled again
    assert memory._scratch.ratio > 1.05
    later = run_trial(Setup(step, source, memory), 33).peak_bytes
    assert later is not None and later > corrected


def test_the_profiler_sees_every_allocation() -> None:
    with CpuAllocations() as record:
        one = torch.zeros(1000)
        two = one + 1
        del one
        three = two + 1
    large = [count for count in record.changes if abs(count) >= 1000]
    assert large == [4000, 4000, -4000, 4000], three
    assert 8000 <= highest(record.changes) <= 8100  # the numbers 1 are tensors for a moment


def test_while_another_profiler_runs_nothing_is_recorded() -> None:
    with CpuAllocations(), CpuAllocations() as inner:
        torch.zeros(1000)
    assert inner.changes == []


def test_the_highest_of_a_sum_that_goes_down_first() -> None:
    assert highest([]) == 0
    assert highest([-5, 3]) == 0
    assert highest([5, -3, 4, -6]) == 6
