# %% [markdown]
# # Reading the report
#
# One report, panel by panel. It was made with a small network and a simulated limit; yours will
# have other numbers and the same parts.

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.utils.data import DataLoader

from batchfinder import find_batch_size
from batchfinder.demo import digits, network
from batchfinder.progress import silent

torch.manual_seed(0)
model = network()
report = find_batch_size(
    model,
    DataLoader(digits(), batch_size=32, shuffle=True),
    loss_fn=nn.CrossEntropyLoss(),
    optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
    memory_limit="48MiB",
    budget_seconds=40,
    observe=silent,
)
print(report.text(80))


# %% [markdown]
# ## What fits
#
# Peak memory grows along a line: fixed bytes (parameters, gradients, optimizer state) plus bytes
# per sample (activations). Trials that did not fit are drawn above the limit.


# %%
def draw(name):
    _, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    report.plot(ax, panel=name)


draw("memory")

# %%
memory = report.memory
print(f"parameters        {memory.parameter_bytes:>12,} bytes")
print(f"gradients         {memory.gradient_bytes:>12,} bytes")
print(f"optimizer state   {memory.optimizer_bytes:>12,} bytes")
print(f"per sample        {memory.per_sample_bytes:>12,.0f} bytes")
print(f"limit             {memory.limit_bytes:>12,} bytes")

# %% [markdown]
# ## What each size costs
#
# Throughput rises while the device has room, then levels off. Bars are 90% intervals. Rows
# that are marked unstable scatter by more than a fifth; they should not decide anything.

# %%
draw("throughput")

# %% [markdown]
# ## What a larger batch buys
#
# The gradient noise scale, in samples. To the left of the dotted diagonal the batch is smaller than
# the noise scale: there, twice the batch needs nearly half the steps. To the right it does not.

# %%
draw("noise")
print(report.noise_scale)

# %% [markdown]
# ## What to use
#
# Time to the same loss, relative to the choice. The band is everything within 3% of the least. The
# choice lies in it, unless yours is kept, or only sizes outside it are reliably faster than yours.

# %%
draw("time")

# %%
for candidate in report.candidates:
    mark = "→" if candidate.chosen else " "
    roles = ", ".join(role.value for role in candidate.roles)
    print(f"{mark} {candidate.plan.global_batch:>5}  time {candidate.relative_time:.2f}  {roles}")

# %% [markdown]
# ## What was assumed

# %%
for caveat in report.caveats:
    print("-", caveat)

# %% [markdown]
# ## Keep it

# %%
report.to_json("report.json")
report.to_html("report.html")
report.to_pandas().round(1)
