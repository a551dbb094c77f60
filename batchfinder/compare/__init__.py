"""The empirical study: train at several batch sizes, side by side, and look.

``study`` is the room's door, ``training`` runs one cell of it, ``cells`` is the frozen data,
``comparison`` what can be asked of it, ``record`` what survives an interruption, ``drawing`` the
figure.
"""

from batchfinder.compare.cells import Cell, Ending, Look
from batchfinder.compare.comparison import Arm, Comparison
from batchfinder.compare.study import compare_batch_sizes

__all__ = ["Arm", "Cell", "Comparison", "Ending", "Look", "compare_batch_sizes"]
