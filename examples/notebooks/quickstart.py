# %% [markdown]
# # Quickstart: handwritten digits
#
# Which batch size should this network train with, and at which learning rate? One call answers,
# and leaves model, optimizer and loader as they were.

# %%
import torch
from torch import nn
from torch.utils.data import DataLoader

from batchfinder import find_batch_size
from batchfinder.demo import digits, network

torch.manual_seed(0)
model = network()
loader = DataLoader(digits(), batch_size=32, shuffle=True)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

# %% [markdown]
# The memory limit is simulated here. Leave it out to use what your device has free. The rows below
# appear while the call runs; in a notebook they form one table, which stays in the saved file.

# %%
report = find_batch_size(
    model,
    loader,
    loss_fn=nn.CrossEntropyLoss(),
    optimizer=optimizer,
    memory_limit="48MiB",
    budget_seconds=40,
)

# %% [markdown]
# ## The answer

# %%
report

# %%
_ = report.plot()
# %% [markdown]
# ## Why, and what else to change

# %%
print(report.explain(80))

# %% [markdown]
# ## Use it
#
# `make_loader` returns a new loader; yours is left as it is.

# %%
faster = report.make_loader(loader)
report.apply_rate(optimizer)

print(loader.batch_size, "→", faster.batch_size)

# %%
losses = []
for _ in range(3):
    for images, labels in faster:
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

print(f"loss {losses[0]:.2f} → {losses[-1]:.2f} in {len(losses)} steps")
