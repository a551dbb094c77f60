"""One training step: the user's model, loss and optimizer, or the user's own function.

``step_from`` puts together how the model is called (``call``), where the loss comes from
(``loss``), the precision (``precision``) and the optimizers (``optimizers``) as a ``Step``
(``training``), after looking for what cannot work (``build``).
"""

from __future__ import annotations

from batchfinder.run.step.build import step_from, step_of
from batchfinder.run.step.compute import compute_of
from batchfinder.run.step.evaluation import EvaluationStep
from batchfinder.run.step.optimizers import family_of, state_tensors
from batchfinder.run.step.precision import context_for
from batchfinder.run.step.training import Step
from batchfinder.run.tree import moved

__all__ = [
    "EvaluationStep",
    "Step",
    "compute_of",
    "context_for",
    "family_of",
    "moved",
    "state_tensors",
    "step_from",
    "step_of",
]
