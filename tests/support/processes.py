"""Several processes over gloo on the loopback: a function run on every rank.

Processes are forked from a server that has loaded torch once, so that a test costs well under a
second of start-up.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

PRELOADED = [
    "torch._dynamo",
    "torch.distributed.tensor.parallel",
    "torch.distributed.fsdp",
    "torch.distributed.optim",
    "torch.fx.experimental.symbolic_shapes",
    "batchfinder.find",
]


@dataclass(frozen=True)
class Failed:
    """The error that a rank ended with."""

    kind: str
    text: str
    trace: str


def on_processes(
    work: Callable[..., Any], *given: Any, world: int = 2, seconds: float = 60.0
) -> list[Any]:
    """``work(rank, *given)`` on every rank of a process group: what each returned or ``Failed``.

    ``work`` is a function at the top of a module; what it returns must be picklable.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    queue, finished = context.Queue(), context.Event()
    port = _free_port()
    processes = [
        context.Process(
            target=_run, args=((rank, world, port), queue, finished, work, given), daemon=True
        )
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    deadline = time.monotonic() + seconds
    try:
        while len(found) < world:
            rank, value = queue.get(timeout=max(0.01, deadline - time.monotonic()))
            found[rank] = value
    finally:
        finished.set()
        for process in processes:
            process.join(5 if len(found) == world else 0)
            if process.is_alive():
                process.kill()
                process.join()
    return [found[rank] for rank in range(world)]


def all_well(found: list[Any]) -> list[Any]:
    """The same, once no rank has failed."""
    failed = [each for each in found if isinstance(each, Failed)]
    assert not failed, "\n".join(f"{each.kind}: {each.text}\n{each.trace}" for each in failed)
    return found


def _run(
    place: tuple[int, int, int],
    queue: Any,
    finished: Any,
    work: Callable[..., Any],
    given: tuple[Any, ...],
) -> None:
    import torch
    from torch import distributed

    rank, world, port = place
    os.environ.update(GLOO_SOCKET_IFNAME="lo", BATCHFINDER_QUIET="1")
    torch.set_num_threads(1)
    try:
        distributed.init_process_group(
            "gloo",
            init_method=f"tcp://127.0.0.1:{port}",
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=40),
        )
        value = work(rank, *given)
    except BaseException as error:  # noqa: BLE001  # Ctrl-C too
        value = Failed(type(error).__name__, str(error), traceback.format_exc())
    queue.put((rank, value))
    queue.close()
    queue.join_thread()
    if rank == 0:  # which keeps the store: the others may still be reading
        finished.wait(60)
    os._exit(0)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
