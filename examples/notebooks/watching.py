# %% [markdown]
# # While you train
#
# The noise scale grows along a run, and a training becomes unstable while it runs. Here a small
# diffusion model and a small GPT are watched from start to end, and one of them is broken on
# purpose. Everything is real data without downloads.

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
# It starts at 16. Once the noise scale is surely at or above twice the batch, the batch doubles,
# and the learning rate goes with its square root, as is right for Adam.

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
# No event, and the loss falls.
#
# ## A GPT whose learning rate gets out of hand
#
# From step 100 on the rate grows by 8% at every step. The monitor speaks once, while the loss is
# hardly a third above where it was; thirty steps later there is nothing left to save.

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
# The event is data: a kind, a step, a code and the numbers behind the sentence.

# %%
(event, *_) = monitor.events
event.kind, event.step, dict(event.said.numbers)
