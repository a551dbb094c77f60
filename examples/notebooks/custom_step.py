# %% [markdown]
# # A training step of your own
#
# Anything that is not `loss_fn(model(input), target)` goes in as `train_step`: a function of model
# and batch that returns the loss. Backward and update are called for you.

# %%
import torch
from torch import nn
from torch.utils.data import DataLoader

from batchfinder import find_batch_size, max_batch_size
from batchfinder.demo import digits

torch.manual_seed(0)
loader = DataLoader(digits(), batch_size=64, shuffle=True)


class TwoHeads(nn.Module):
    """An encoder whose code is both decoded and classified."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 16)
        )
        self.decoder = nn.Sequential(nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 64))
        self.classifier = nn.Linear(16, 10)

    def forward(self, images):
        code = self.encoder(images)
        return self.decoder(code).view_as(images), self.classifier(code)


def two_losses(model, batch):
    images, labels = batch
    noisy = images + 0.1 * torch.randn_like(images)
    decoded, scores = model(noisy)
    return nn.functional.mse_loss(decoded, images) + 0.1 * nn.functional.cross_entropy(
        scores, labels
    )


model = TwoHeads()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
report = find_batch_size(
    model,
    loader,
    train_step=two_losses,
    optimizer=optimizer,
    memory_limit="8MiB",
    budget_seconds=15,
)
report

# %% [markdown]
# ## A step that updates by itself
#
# A step that returns `None` has done its own backward and update. Memory and throughput can be
# measured; the noise scale cannot, because its gradients are out of sight, and a caveat says so.


# %%
def whole_step(model, batch):
    loss = two_losses(model, batch)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


found = max_batch_size(
    model, loader, train_step=whole_step, optimizer=optimizer, memory_limit="4MiB"
)
print(found.max_batch_size, found.limited_by.value)
for trial in found.trials:
    print(f"{trial.batch_size:>6}  {trial.outcome.value}")

# %% [markdown]
# ## A bug in your own code
#
# It passes through as itself, with a note that says at which size and stage it happened.


# %%
def broken(model, batch):
    images, labels = batch
    return nn.functional.cross_entropy(model(images), labels)  # the model returns two things


try:
    max_batch_size(model, loader, train_step=broken, memory_limit="4MiB")
except TypeError as error:
    print(error)
    print(*error.__notes__, sep="\n")
