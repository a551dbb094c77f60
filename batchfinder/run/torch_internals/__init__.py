"""Private parts of torch, one module a subject: each is tested for.

Where anything works without one there is a fallback, which says what is lost.
"""
