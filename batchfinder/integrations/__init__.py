"""One module a framework: its objects become a ``Training``; a report is applied to them.

``batchfinder.integrations.lightning`` (Fabric too), ``.transformers`` and ``.accelerate``. Each
imports its framework; nothing in the rest of the package imports them. All three offer
``find_batch_size``, ``max_batch_size`` and ``apply``.
"""
