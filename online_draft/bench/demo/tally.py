"""What the demo counts: integers while it runs, ratios when somebody looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from online_draft.bench.demo.traffic import Burst, Reply


@dataclass(slots=True)
class Phase:
    """One domain's traffic. `taus` has an entry per burst; `pairs` the bursts that were sent again without
    speculation, each with its twin."""

    domain: str
    window: int
    replies: list[Reply] = field(default_factory=list)
    taus: list[float] = field(default_factory=list)
    pairs: list[tuple[Burst, Burst]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, burst: Burst) -> None:
        """Count a burst of the domain's traffic."""
        self._note_failures(burst)
        answered = [reply for reply in burst.replies if reply.error is None]
        self.replies += answered
        if answered:
            self.taus.append(_tau(answered))

    def add_twin(self, burst: Burst, plain: Burst) -> None:
        """Count the plain twin of a burst."""
        self._note_failures(plain)
        self.pairs.append((burst, plain))

    @property
    def tau_at_shift(self) -> float | None:
        """τ over the first window; None before that is complete."""
        return _tau(self.replies[: self.window]) if len(self.replies) >= self.window else None

    @property
    def tau_final(self) -> float | None:
        """τ over the last window, which doesn't overlap the first; None before that is complete."""
        return _tau(self.replies[-self.window :]) if len(self.replies) >= 2 * self.window else None

    @property
    def tau_now(self) -> float | None:
        """τ over the last window, or over what there is."""
        return _tau(self.replies[-self.window :]) if self.replies else None

    def speed(self, plain: bool) -> float | None:
        """Tokens per second over the paired bursts, of one side: of those pairs that the newest drafter
        version served, so that a phase ends with the speed it has learnt."""
        newest = self.pairs[-1][0].version if self.pairs else None
        side = [pair[plain] for pair in self.pairs if pair[0].version == newest]
        seconds = sum(burst.seconds for burst in side)
        return sum(burst.tokens for burst in side) / seconds if seconds else None

    def differing(self) -> list[tuple[Reply, Reply]]:
        """(speculative, plain) answers to the same request that aren't equal."""
        return [
            (fast, slow)
            for burst, twin in self.pairs
            for fast, slow in zip(burst.replies, twin.replies, strict=True)
            if fast.error is None and slow.error is None and fast.token_ids != slow.token_ids
        ]

    def as_json(self) -> dict[str, Any]:
        """One entry of `phases`."""
        return {
            "segment": self.domain,
            "requests": len(self.replies),
            "tau_at_shift": _rounded(self.tau_at_shift),
            "tau_final": _rounded(self.tau_final),
            "tokens_per_second": _rounded(self.speed(plain=False), 1),
            "plain_tokens_per_second": _rounded(self.speed(plain=True), 1),
        }

    def _note_failures(self, burst: Burst) -> None:
        self.failures += [reply.error for reply in burst.replies if reply.error is not None]


def _tau(replies: Sequence[Reply]) -> float:
    return sum(reply.committed for reply in replies) / max(1, sum(reply.steps for reply in replies))


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)
