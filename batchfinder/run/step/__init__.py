"""One training step: the user's model, loss and optimizer, or the user's own function.

``step_from`` puts together how the model is called (``call``), where the loss comes from
(``loss``), the precision (``precision``) and the optimizers (``optimizers``) as a ``Step``
(``training``), after looking for what cannot work (``checks``).
"""

from __future__ import annotations

from batchfinder.run.step.build import step_from
from batchfinder.run.step.evaluation import EvaluationStep
from batchfinder.run.step.move import moved
from batchfinder.run.step.optimizers import family_of
from batchfinder.run.step.training import Step

__all__ = ["EvaluationStep", "Step", "family_of", "moved", "step_from"]
