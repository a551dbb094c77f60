"""The command line: parse, call, print. What is found is found elsewhere.

``parser``   what can be asked, and the help that teaches it
``factory``  "package.module:make" turned into a model, a loader and keyword arguments
``output``   a result as text, JSON, HTML or figure
``commands`` one function per command
"""

from batchfinder.cli.main import main

__all__ = ["main"]
