# %% [markdown]
# # The empirical study
#
# A recommendation rests on a model of training. `compare_batch_sizes` assumes less and costs more:
# it trains at several sizes, each from fresh weights, and puts them side by side.

# %%
import torch
from torch import nn
from torch.utils.data import DataLoader, random_split

from batchfinder import Training, compare_batch_sizes
from batchfinder.demo import digits

generator = torch.Generator().manual_seed(0)
training, validation = random_split(digits(), [1400, 397], generator=generator)


def make_training():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return Training(model, optimizer=optimizer, loss_fn=nn.CrossEntropyLoss())


def make_loader(batch_size):
    return DataLoader(training, batch_size=batch_size, shuffle=True)


def accuracy(model, batch):
    images, labels = batch
    return (model(images).argmax(1) == labels).float().mean()


# %% [markdown]
# The learning rate at each size follows from the base pair (0.001 at 32) by the rule for AdamW.
# Every size sees the same number of samples.

# %%
study = compare_batch_sizes(
    make_training,
    make_loader,
    sizes=[8, 32, 128, 512],
    validation_loader=DataLoader(validation, batch_size=397),
    metric=accuracy,
    base_batch_size=32,
    epochs=8,
    seeds=2,
)
print(study)

# %%
_ = study.plot()

# %% [markdown]
# `tables()` has every seed: loss, time, accuracy in training and validation, parameters and memory,
# steps and epochs to the target, memory, gap. `study.to_html("study.html")` puts all of it on one
# page.

# %%
for table in study.tables():
    print(table, end="\n\n")

# %% [markdown]
# Read it from left to right: how long until the loss that every size has reached, in how many
# steps, with how many epochs. Small batches need few epochs and many steps, large ones the
# reverse. What was predicted from the noise scale can be checked against this table.

# %% [markdown]
# ## Is the rate to blame?
#
# A size can look bad because its rate is wrong. A small grid around the rule's rate tells: each
# size is then judged by its best.

# %%
tuned = compare_batch_sizes(
    make_training,
    make_loader,
    sizes=[32, 512],
    validation_loader=DataLoader(validation, batch_size=397),
    base_batch_size=32,
    rate_factors=(0.5, 1.0, 2.0),
    epochs=8,
    seeds=1,
)
print(tuned)
