"""Writes the page of ``monitor.py``.

    python tests/benchmarks/monitor_table.py ROWS.jsonl [MORE.jsonl …]

Rows of a part that stands in the files given replace those of docs/tables/monitor.json; it and
docs/tables/monitor.md are written.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "support"))
sys.path.append(str(Path(__file__).parent.parent.parent))
from monitor_alarms import alarms_table
from monitor_cost import cost_table
from monitor_growth import growth_table
from monitor_noise import noise_table

TABLES = Path(__file__).parent.parent.parent / "docs" / "tables"

OPENING = """\
# The monitor, measured

Rows from `python tests/benchmarks/monitor.py`, page by `python tests/benchmarks/monitor_table.py`
(torch 2.13.0+cpu, one thread, two cores shared with other work; all but the cost counts steps and
not seconds). How many seeds each part had is said there.
"""

NOISE = """\
## Noise scale

Batch 64 in two halves, a look at every 10th step, up to three windows of 40 looks a run; and one
window of looks as by default, 8,408 steps, in which gradients fall by orders of magnitude. The
exact value is computed another way at the same weights, at the looks that the monitor pooled: |G|²
from the gradient of all 2,048 samples that the run draws from, and tr(Σ) from the gradients of 256
single samples at a time, at every look or (from the second window on) at every other one; for Adam
in its own metric. The aim: a median within 1.35, and an interval of 90% that holds in 85% to 95%.
How many looks are pooled at most was chosen beforehand on digits with seeds 0 and 1, among 20, 40
and 60. That they must be alike was added when looks as by default were first measured: pooled over
all 40 the noise scale was that of the first few hundred steps (97 where it had grown to 2,800).
Its factor of two was chosen among 2, 3, 4 and 8 on gradients simulated along the exact values of
the digits MLP and the digits CNN, seed 20; nothing was changed after this table was seen.
"""

ALARMS = """\
## Alarms

Trainings of `tests/support/monitor_trainings.py`, a look at every 50th step, and once more with
looks as by default (the last two columns), on seeds that neither tests nor tuning have used; what
goes wrong begins at step 417, between two looks. Steps are those after which the observer is
called. Collapse is the first loss that is not finite, or from which on all are above three times
the level before. Healthy trainings are SGD with and without momentum, Adam, heavy-tailed noise, a
small set learned by heart, whole-set gradient descent, a schedule with a warm-up, batches of four,
and a recurrent network.
"""

COST = """\
## Cost

Processor time of one training in turns of some 10 steps, with a monitor at its default and
without, on the same model in the same memory; turns without are the plain loop, which calls neither
`parts` nor `share`. *An ordinary step* is what a step with the monitor takes beyond one without
where nothing is looked at, *a look* what one takes beyond ordinary steps, most of it the second
half of its batch, both medians. The first eight looks are 47 steps apart, later ones 251, and from
step 8,032 on a 32nd of all steps, up to 1,009: the two columns after *a look* are what both come to
then. The aim is 1.02. Other programs on the same processors (load) make a few Python calls between
two steps dearer than they are at rest.
"""

GROWTH = """\
## Growing batches

Time to the target loss over that of the best constant pair, at step times of a GPU whose steps
are bound by overhead, 1 + B/1024. The constant pairs are the best of the sweeps of the table of
regrets, those of Mackey–Glass and of the UNet the best of small sweeps with this very loop (on
seed 0, eleven and four pairs: the other table's rates are four times and twice too high here, and
made growing batches look better than they are). All are timed on other seeds. *Followed* is
`FollowMonitor(step_seconds=...)` from the best pair, or from half its size at the rate that the
rule gives there. *Grown* is `GrowInsteadOfDecay` with milestones at a half and three quarters of
the samples that the constant pair took on another seed, from the best pair or from half its size
at the same rate, to at most four times the size. *Rate decays* keeps the size and halves the rate
at the same milestones. Starting to follow at half the size was added after other rows were seen.
The aim for a growing batch is 0.9.
"""


def page(rows: list[dict[str, object]]) -> str:
    parts = (
        ("noise", NOISE, noise_table),
        ("alarms", ALARMS, alarms_table),
        ("cost", COST, cost_table),
        ("growth", GROWTH, growth_table),
    )
    sections = [
        f"{text}\n" + "\n".join(table(mine)) + "\n"
        for name, text, table in parts
        if (mine := [row for row in rows if row["part"] == name])
    ]
    return "\n".join([OPENING, *sections])


def main() -> None:
    kept = TABLES / "monitor.json"
    before = json.loads(kept.read_text()) if kept.exists() else []
    lines = [line for path in sys.argv[1:] for line in Path(path).read_text().splitlines()]
    new = [json.loads(line) for line in lines]
    parts = {row["part"] for row in new}
    rows = [row for row in before if row["part"] not in parts] + new
    kept.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    (TABLES / "monitor.md").write_text(page(rows))


if __name__ == "__main__":
    main()
