"""The n-gram memory: goes on as the same words went on before, in the request or for its tenant.

No training, no weights; learns within a request. Source: prompt lookup, SAM decoding, suffix decoding.
"""

from online_draft.models.ngram.config import NgramConfig
from online_draft.models.ngram.memory import NgramMemory, NgramStats
from online_draft.models.ngram.tree import REQUEST, TENANT, NgramTree

__all__ = ["REQUEST", "TENANT", "NgramConfig", "NgramMemory", "NgramStats", "NgramTree"]
