"""``python -m batchfinder``: the command line."""

import sys

from batchfinder.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
