"""What a run leaves beside counts: decisions by request, and answers to compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from online_draft.core import GenerationRequest
from online_draft.registry.journal import Decision


@dataclass(frozen=True, slots=True)
class Event:
    """A decision, and how many requests had ended before it."""

    after: int
    decision: Decision

    def as_json(self) -> dict[str, Any]:
        """One entry of `events`."""
        decision = self.decision
        return {
            "after_requests": self.after,
            "kind": decision.kind,
            "version": decision.version,
            "reason": decision.reason,
        }


@dataclass(frozen=True, slots=True)
class Twin:
    """A request's answer, and that of plain decoding."""

    request: GenerationRequest
    drafted: tuple[int, ...]
    plain: tuple[int, ...]
