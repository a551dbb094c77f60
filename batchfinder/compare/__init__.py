"""The empirical study: train at several batch sizes, side by side, and compare.

``study``       ``compare_batch_sizes``
``recipe``      one training as values; ``training`` runs it
``conduct``     at which rate each size is trained; what is done is kept in a file
``jobs``        trainings in other processes
``data``        the frozen data: arms, cells, looks
``comparison``  the result, and what can be asked of it
``tables``      the nine tables; ``rendering`` the text, ``page`` the figure and the HTML page
"""

from batchfinder.compare.comparison import Comparison
from batchfinder.compare.data import Arm, Cell, Ending, Look
from batchfinder.compare.study import compare_batch_sizes
from batchfinder.compare.tables import StudyTable
from batchfinder.compare.training import Stopping

__all__ = [
    "Arm",
    "Cell",
    "Comparison",
    "Ending",
    "Look",
    "Stopping",
    "StudyTable",
    "compare_batch_sizes",
]
