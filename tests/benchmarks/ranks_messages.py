"""Messages between ranks during a whole call, and the time spent waiting for them.

One call of the same number of stages under ``DistributedDataParallel`` over gloo, all ranks on this
machine; then what one message costs by itself, with nothing else to do.

    python tests/benchmarks/ranks_messages.py > docs/tables/ranks_messages.md
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

WORLDS = (2, 4, 8)
ALONE_MESSAGES = 200


def counted(rank: int, seconds: float) -> tuple[int, float, float, float, float]:
    """Messages of a call, seconds waited, seconds of the call; median message in it and alone."""
    import torch
    from ranks_cases import loader, perceptron, wrapped

    import batchfinder as bf
    from batchfinder.run.ranks import TorchRanks, messages

    took: list[float] = []
    own = messages.Board.exchange

    def exchange(self: Any, *given: Any, **named: Any) -> Any:
        started = time.perf_counter()
        answers = own(self, *given, **named)
        took.append(time.perf_counter() - started)
        return answers

    messages.Board.exchange = exchange  # type: ignore[method-assign]
    model = wrapped(perceptron(4), "ddp")
    started = time.perf_counter()
    report = bf.find_batch_size(
        model,
        loader(2048),
        loss_fn=torch.nn.functional.cross_entropy,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
        at_most=64,
        memory_limit="1GiB",
        budget_seconds=seconds,
    )
    whole, in_call = time.perf_counter() - started, list(took)
    ranks = TorchRanks().meet({"function": "messages"})
    took.clear()
    for _ in range(ALONE_MESSAGES):
        ranks.tell("a message", 0.0)
    waited = report.ranks[rank].waited_seconds
    return len(in_call), waited, whole, statistics.median(in_call), statistics.median(took)


def main() -> None:
    from processes import all_well, on_processes

    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    print("# What ranks tell each other\n")
    print(
        f"Written by `python tests/benchmarks/ranks_messages.py {seconds:g}`: one whole call with "
        f"`budget_seconds={seconds:g}` on a small model over gloo, all ranks on one machine of "
        f"{os.cpu_count()} cores (load {os.getloadavg()[0]:.0f} as it began). Rank 0's figures; "
        "the last column is a message where ranks do nothing else.\n"
    )
    print("| ranks | messages | call | waited | median message | alone |")
    print("|--:|--:|--:|--:|--:|--:|")
    for world in WORLDS:
        found = all_well(on_processes(counted, seconds, world=world, seconds=180))
        count, waited, whole, median, alone = found[0]
        print(
            f"| {world} | {count:,} | {whole:.1f} s | {waited:.1f} s | {1000 * median:.1f} ms | "
            f"{1000 * alone:.2f} ms |",
            flush=True,
        )


if __name__ == "__main__":
    main()
