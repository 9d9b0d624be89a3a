"""Models: the frozen target, its KV tensors, and the drafters."""
