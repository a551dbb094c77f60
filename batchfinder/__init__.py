"""batchfinder: which batch size should I train with, and at which learning rate?"""

__version__ = "0.1.0"
