"""One picture that tells it all: what fits, what it costs, what it buys, what to use.

Every difference is one of shape, line or word as well as of colour, so that the picture reads in
grey. Matplotlib is imported when something is drawn.

``drawing``  the figure, a single panel, SVG
``panels``   the four panels, and a fifth where learning rates were raced
``marks``    what they are made of
"""

from batchfinder.plot.drawing import check_panel, figure, panel, plot, require, svg, svg_of
from batchfinder.plot.marks import BLUE, GREY, ORANGE, matplotlib, title
from batchfinder.plot.panels import PANELS

__all__ = [
    "BLUE",
    "GREY",
    "ORANGE",
    "PANELS",
    "check_panel",
    "figure",
    "matplotlib",
    "panel",
    "plot",
    "require",
    "svg",
    "svg_of",
    "title",
]
