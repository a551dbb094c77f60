# %% [markdown]
# # While you train
#
# The gradient noise scale grows during training, and instability shows only while a model trains.
# This notebook monitors a small diffusion model and a small GPT from the first step to the last,
# and makes the second one unstable on purpose. The data is real and needs no download.

# %%
import sys

import torch
from torch.utils.data import DataLoader

sys.path.append("..")
from diffusion import UNet, cosine, step_with
from language_model import Characters, Model, next_character

from batchfinder import BatchSizeScheduler, TrainingMonitor
from batchfinder.demo import digits
from batchfinder.monitor import FollowMonitor

# %% [markdown]
# ## A diffusion model whose batch follows its noise scale
#
# Training starts at batch size 16. Once the lower end of the noise scale's interval reaches twice
# the batch size, the batch doubles, and the learning rate grows with its square root, the rule for
# Adam.

# %%
torch.manual_seed(0)
model, loss_of = UNet(width=12), step_with(cosine())
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
loader = DataLoader(digits(), batch_size=16, shuffle=True, drop_last=True)

monitor = TrainingMonitor(model, optimizer, batch_size=16, every=10, observe=print)
growth = BatchSizeScheduler(loader, optimizer, FollowMonitor(at_most=64), monitor=monitor)
while growth.steps < 500:
    for batch in growth.loader:
        optimizer.zero_grad()
        for part, share in growth.parts(batch):
            loss = loss_of(model, part)
            (share * loss).backward()
        optimizer.step()
        growth.step()
        monitor.step(loss)

print(growth.last_batch_size, growth.last_learning_rate)
print(monitor.noise_scale)

# %%
axes = monitor.plot()

# %% [markdown]
# An event would be a numbered vertical line in every panel.
#
# ## A GPT whose learning rate grows too large
#
# From step 100 on, the learning rate grows by 8% at every step. The monitor prints an event once
# the loss stays above its trend. The readings below show how much further the loss rises.

# %%
torch.manual_seed(0)
text = Characters()
model = Model(text.kinds, width=32)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
monitor = TrainingMonitor(model, optimizer, batch_size=16, every=10, observe=print)
for batch in DataLoader(text, batch_size=16, shuffle=True):
    if monitor.steps > 100:
        optimizer.param_groups[0]["lr"] *= 1.08
    optimizer.zero_grad()
    for part, share in monitor.parts(batch):
        loss = next_character(model(part[0]), part[1])
        (share * loss).backward()
    optimizer.step()
    monitor.step(loss)

# %%
for reading in monitor.history.readings[8:]:
    print(f"step {reading.step}  loss {reading.loss:.3g}  update {reading.update_ratio:.2g}")

# %% [markdown]
# An event is data: its kind, its step, and the numbers in the sentence.

# %%
(event, *_) = monitor.events
event.kind, event.step, dict(event.said.numbers)
