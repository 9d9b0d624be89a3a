"""Nouns that several rooms share. Standard library only.

A `GenerationRequest` goes into an engine, a `StepOutput` per engine step comes out, and an
`Interaction` is what remains of it in the replay buffer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "abort", "error"]

SCHEMA_VERSION = 1
"""Version of records, manifests and journal entries; readers accept this and the previous one."""

DEFAULT_TENANT = "default"
DEFAULT_SEGMENT = "default"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off.

    `seed` fixes the output for good: neither drafter, batch, swap nor failover changes a token.
    Validation of user input happens at the edge (`serve/api`); this is the validated form.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 128
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate.

    `emitted` are tokens already sent by another replica (or before a preemption): generation goes on
    behind them and, with the same seed, is what it would have been. `prompt_index` and `choice_index`
    separate the noise of the sequences of one API call. `speculate=False` is plain decoding.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams = SamplingParams()
    emitted: tuple[int, ...] = ()
    prompt_index: int = 0
    choice_index: int = 0
    speculate: bool = True
    tenant: str = DEFAULT_TENANT
    segment: str = DEFAULT_SEGMENT
    learn: bool = True


@dataclass(slots=True)
class SpeculationCounts:
    """Integers only (counts first, ratios last). `tried[k]` counts the steps whose walk reached depth k
    and had drafted depth k + 1; `accepted[k]` those in which a node of depth k + 1 was accepted."""

    steps: int = 0
    committed: int = 0
    drafted: int = 0
    tried: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)

    def record(self, committed: int, drafted: int, accepted_depth: int, drafted_depth: int) -> None:
        """Add one step: `accepted_depth` nodes accepted of a tree `drafted_depth` deep."""
        self.steps += 1
        self.committed += committed
        self.drafted += drafted
        if len(self.tried) < drafted_depth:
            grow = drafted_depth - len(self.tried)
            self.tried += [0] * grow
            self.accepted += [0] * grow
        for depth in range(min(accepted_depth + 1, drafted_depth)):
            self.tried[depth] += 1
        for depth in range(accepted_depth):
            self.accepted[depth] += 1

    def add(self, other: SpeculationCounts) -> None:
        """Add another count to this one, depth by depth."""
        self.steps += other.steps
        self.committed += other.committed
        self.drafted += other.drafted
        grow = len(other.tried) - len(self.tried)
        if grow > 0:
            self.tried += [0] * grow
            self.accepted += [0] * grow
        for depth, (tried, accepted) in enumerate(zip(other.tried, other.accepted, strict=True)):
            self.tried[depth] += tried
            self.accepted[depth] += accepted

    @property
    def accepted_tokens(self) -> int:
        """Draft tokens that were accepted."""
        return sum(self.accepted)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one engine step gave one request: the new tokens and the text that is safe to show.

    `token_ids` holds every committed token, a final stop token included; `text` never ends in half a
    character and never holds a stop string. The last output has `finish_reason` and the totals.
    """

    request_id: str
    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason | None = None
    counts: SpeculationCounts | None = None
    drafter_version: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Interaction:
    """A finished request as the replay buffer keeps it: token ids and integers, no text.

    `near_ties` is not known while serving. `accepted_lengths` has one entry a step (bonus token
    included), so that `sum(accepted_lengths) == len(output_ids)`.
    """

    target: str
    tenant: str
    segment: str
    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    temperature: float
    top_p: float
    top_k: int
    seed: int
    prompt_index: int
    choice_index: int
    accepted_lengths: tuple[int, ...]
    tried: tuple[int, ...]
    accepted: tuple[int, ...]
    drafter_version: str
    finished_at_ms: int
