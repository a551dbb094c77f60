"""How much of the host's memory this process may still take.

The kernel kills a process that takes more: there is no exception to catch. So the budget stays
below what is free, and the smallest limit of all enclosing control groups counts, because
``psutil`` sees the machine and not the container.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

__all__ = ["SHARE", "host_budget", "host_free", "ranks_on_host"]

SHARE = 0.5
"""Share of what is free that may be taken: the other half is left to the machine."""

_UNLIMITED = 1 << 60  # version 1 writes "no limit" as the largest multiple of a page


@dataclass(frozen=True)
class _Version:
    """How one version of the control groups names things."""

    filesystem: str
    limit: str
    usage: str
    reclaimable: str


_V1 = _Version("cgroup", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Version("cgroup2", "memory.max", "memory.current", "inactive_file")


_LOCAL_RANKS = (
    "LOCAL_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALNRANKS",
    "SLURM_NTASKS_PER_NODE",
)


def host_budget(root: Path = Path("/")) -> int:
    """Bytes that this process may take from now on, half of what is free left to the machine."""
    return int(SHARE * host_free(root)) // ranks_on_host()


def ranks_on_host() -> int:
    """Processes of a training on this host, as the launcher reports it; 1 where it reports nothing.

    ``torchrun``, Open MPI, MPICH and SLURM write it into the environment.
    """
    told = (os.environ.get(name, "") for name in _LOCAL_RANKS)
    return max(next((int(each) for each in told if each.isdigit()), 1), 1)


def host_free(root: Path = Path("/")) -> int:
    """Bytes free to this process: of the machine, and within every enclosing control group."""
    free: list[int | None] = [psutil.virtual_memory().available]
    for version, own, top in _groups(root):
        for folder in (own, *own.parents):
            free.append(_headroom(folder, version))
            if folder == top:
                break
    return max(min(each for each in free if each is not None), 0)


def _groups(root: Path) -> Iterator[tuple[_Version, Path, Path]]:
    """(version, this process's group, the topmost visible group), for each hierarchy."""
    own = _own_groups(root)
    for version, inside, mount in _mounts(root):
        path = own.get(version.filesystem)
        if path is None:
            continue
        top = root / mount.relative_to("/")
        # in a container the mount shows only the part of the tree below its own root
        below = path.relative_to(inside) if path.is_relative_to(inside) else path.relative_to("/")
        folder = top / below
        yield version, folder if folder.is_dir() else top, top


def _own_groups(root: Path) -> dict[str, PurePosixPath]:
    """This process's group by kind of file system, from lines ``id:controllers:path``."""
    groups = {}
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            groups[_V2.filesystem] = PurePosixPath(path)
        elif "memory" in controllers.split(","):
            groups[_V1.filesystem] = PurePosixPath(path)
    return groups


def _mounts(root: Path) -> Iterator[tuple[_Version, PurePosixPath, PurePosixPath]]:
    """(version, the root shown, where it is mounted); see proc(5) on ``mountinfo``."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        inside, mount = PurePosixPath(fields[3]), PurePosixPath(fields[4])
        if kind[0] == _V2.filesystem:
            yield _V2, inside, mount
        elif kind[0] == _V1.filesystem and "memory" in kind[2].split(","):
            yield _V1, inside, mount


def _headroom(folder: Path, version: _Version) -> int | None:
    limit = _number(folder / version.limit)
    used = _number(folder / version.usage)
    if limit is None or used is None or limit >= _UNLIMITED:
        return None
    # file pages that the kernel drops before it kills: counted as used, but free to take
    pages = dict(line.split(" ", 1) for line in _lines(folder / "memory.stat") if " " in line)
    return limit - used + int(pages.get(version.reclaimable, 0))


def _number(path: Path) -> int | None:
    """The number in a file of one line; ``None`` without the file, or where it says "max"."""
    text = next(iter(_lines(path)), "")
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
