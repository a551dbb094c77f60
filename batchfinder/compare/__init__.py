"""The empirical study: train at several batch sizes, side by side, and look.

``study`` is the room's door, ``training`` runs one cell of it, ``cells`` is the frozen data,
``comparison`` what can be asked of it, ``tables`` the nine tables, ``record`` what survives an
interruption, ``drawing`` the curves, ``page`` all of it on one page.
"""

from batchfinder.compare.comparison import Comparison
from batchfinder.compare.data import Arm, Cell, Ending, Look
from batchfinder.compare.study import compare_batch_sizes
from batchfinder.compare.tables import StudyTable

__all__ = ["Arm", "Cell", "Comparison", "Ending", "Look", "StudyTable", "compare_batch_sizes"]
