# %% [markdown]
# # A diffusion model
#
# A small denoising UNet on handwritten digits. Every sample comes with a time and with noise drawn
# at random, which add to the noise of the gradient. All of that stands in `train_step`; nothing
# else is special.

# %%
import sys

import torch
from torch.utils.data import DataLoader

sys.path.append("..")
from diffusion import UNet, cosine, linear, step_with

from batchfinder import MicroBatchVariance, find_batch_size, gradient_noise_scale
from batchfinder.demo import digits
from batchfinder.progress import silent

torch.manual_seed(0)
model = UNet(width=12)
loader = DataLoader(digits(), batch_size=32, shuffle=True)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
train_step = step_with(cosine())

# %% [markdown]
# ## The call
#
# What is compared is the predicted time to one loss: step times, and the noise of the gradient.

# %%
report = find_batch_size(model, loader, train_step=train_step, optimizer=optimizer, observe=silent)
report

# %%
_ = report.plot(panel="noise")

# %% [markdown]
# ## The noise schedule is part of the answer
#
# How often each time is drawn, and how the loss is weighted over them, decides how much gradients
# differ. The same model after 100 steps under each of two schedules:

# %%
after_100 = MicroBatchVariance(warmup_steps=100)
for schedule in (linear, cosine):
    noise = gradient_noise_scale(
        model,
        loader,
        train_step=step_with(schedule()),
        optimizer=optimizer,
        noise=after_100,
        observe=silent,
    )
    print(f"{schedule.__name__:<7} {noise.value:.0f} ({noise.low:.0f}–{noise.high:.0f}) samples")

# %% [markdown]
# ## What else to change
#
# Averages of weights (EMA) are counted in steps; `explain()` ends with what goes with the batch
# size.

# %%
print(report.explain(90))
