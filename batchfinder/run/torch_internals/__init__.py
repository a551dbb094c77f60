"""Private parts of torch, each with a test for it and a fallback; one module a subject."""
