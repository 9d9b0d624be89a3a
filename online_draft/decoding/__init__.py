"""Exact speculative decoding: engine, scheduler, block allocation, draft trees, verification, sampling."""
