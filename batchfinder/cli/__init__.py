"""The command line: parse, call, print. What is found is found elsewhere.

``main``      what it takes, its front door and its exit codes
``commands``  the commands, and how they print
``factory``   what the caller's own function returns
"""

from batchfinder.cli.main import main

__all__ = ["main"]
