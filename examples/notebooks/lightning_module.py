# %% [markdown]
# # With Lightning
#
# One call on a trainer and a module, and what to do with the answer. The adapters for Transformers,
# Accelerate and Fabric have the same functions.

# %%
import logging
import sys
import warnings

warnings.filterwarnings("ignore")
for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
    logging.getLogger(name).setLevel(logging.ERROR)

import lightning.pytorch as pl

sys.path.append("..")
from with_lightning import Digits

from batchfinder.integrations.lightning import apply, find_batch_size
from batchfinder.progress import silent

pl.seed_everything(0, verbose=False)


def trainer(**options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, **quiet, **options
    )


# %% [markdown]
# ## The search
#
# It takes its step from inside `fit`: precision, clipping, hooks and schedulers are those of the
# training. Module and trainer are afterwards as they were.

# %%
module = Digits(batch_size=16, lr=1e-3)
report = find_batch_size(trainer(max_epochs=1), module, observe=silent)
report

# %% [markdown]
# ## The answer, set on the objects
#
# `apply` sets what it can and says what it set.

# %%
training = trainer(max_epochs=3)
for setting in apply(report, training, module):
    print(setting)

training.fit(module)
print(f"trained {training.global_step} steps at batch size {module.batch_size}")

# %% [markdown]
# ## Or all at once
#
# `Trainer(callbacks=[BatchFinder()])` searches as `fit` begins and trains on with the answer. The
# lines below are what a training script needs, with the numbers in them.

# %%
print(report.settings("lightning"))
