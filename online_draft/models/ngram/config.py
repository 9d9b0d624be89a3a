"""Sizes of the n-gram memory."""

from __future__ import annotations

from dataclasses import dataclass

from online_draft.errors import ConfigError
from online_draft.models.ngram.tree import MOST_MATCHED, MOST_SUPPORT


@dataclass(frozen=True, slots=True)
class NgramConfig:
    """What is remembered, and how much of it one proposal looks at. Lengths and sizes are in tokens.

    A match is a run of `min_match` to `max_match` tokens at the end of a sequence that occurred before.
    `occurrences` of them, longest first, then newest, are continued by at most `depth` tokens; nodes whose
    estimated chance is below `least_worth` are left out (0.04 proposes a third more of them: for devices on
    which a row costs next to nothing). A request remembers its last `request_tokens`, a tenant the last
    `tenant_tokens` of its outputs, and this for the `max_tenants` tenants heard of last.
    """

    min_match: int = 1
    max_match: int = 16
    occurrences: int = 6
    depth: int = 16
    least_worth: float = 0.1
    request_tokens: int = 32768
    tenant_tokens: int = 16384
    max_tenants: int = 64

    def __post_init__(self) -> None:
        least_tokens = 4 * (self.max_match + 2)
        for name, low, high in (
            ("min_match", 1, MOST_MATCHED),
            ("max_match", self.min_match, MOST_MATCHED),
            ("occurrences", 2, MOST_SUPPORT),
            ("depth", 1, None),
            ("request_tokens", least_tokens, None),
            ("tenant_tokens", least_tokens, None),
            ("max_tenants", 1, None),
        ):
            value = getattr(self, name)
            if value < low or (high is not None and value > high):
                accepted = f"at least {low}" if high is None else f"from {low} to {high}"
                raise ConfigError(f"ngram.{name}", f"must be {accepted}, got {value}")
        if not 0 < self.least_worth <= 1:
            raise ConfigError("ngram.least_worth", f"must be above 0 and at most 1, got {self.least_worth}")
