# %% [markdown]
# # Simulated limits in your own tests
#
# Does my model still train on a small device? A test can ask, without the device: `memory_limit`
# counts the bytes of tensors on a CPU and raises the same `torch.OutOfMemoryError` as a GPU.

# %%
import torch
from torch import nn

from batchfinder import memory_limit
from batchfinder.demo import digits, network

torch.manual_seed(0)
images, labels = digits()[:512]


def train_step(model, size):
    loss = nn.functional.cross_entropy(model(images[:size]), labels[:size])
    loss.backward()
    return loss.item()


with memory_limit("16MiB"):
    print("32 samples:", round(train_step(network(), 32), 3))

# %% [markdown]
# One that is too large:

# %%
try:
    with memory_limit("16MiB"):
        train_step(network(), 512)
except torch.OutOfMemoryError as error:
    print(type(error).__name__, "-", error)


# %% [markdown]
# ## As a test
#
# This is the whole of it. Nothing here needs a GPU, and nothing is slow.


# %%
def test_training_fits_a_small_device():
    with memory_limit("16MiB"):
        train_step(network(), 64)


def test_activation_checkpointing_saves_memory():
    from torch.utils.checkpoint import checkpoint_sequential

    def step(model):
        scores = checkpoint_sequential(model, 3, images[:448], use_reentrant=False)
        nn.functional.cross_entropy(scores, labels[:448]).backward()

    with memory_limit("20MiB"):
        step(network())


test_training_fits_a_small_device()
test_activation_checkpointing_saves_memory()
print("both pass")

# %% [markdown]
# The same with the whole batch kept at once does not fit in the same limit:

# %%
try:
    with memory_limit("20MiB"):
        train_step(network(), 448)
except torch.OutOfMemoryError:
    print("without checkpointing it does not fit")
