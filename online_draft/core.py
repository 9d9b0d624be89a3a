"""Nouns that several rooms share. Standard library only.

A `GenerationRequest` goes into an engine, a `StepOutput` per engine step comes out, and an
`Interaction` is what remains of it in the replay buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from online_draft.errors import RequestError

FinishReason = Literal["stop", "length", "abort", "error"]

SCHEMA_VERSION = 1
"""Version of records, manifests and journal entries; readers accept this and the previous one."""

TARGET_UPDATED = "the target was updated before the answer was complete"
"""Why a sequence ended with finish reason "abort"."""

DEFAULT_TENANT = "default"
DEFAULT_SEGMENT = "default"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen, with vLLM's meanings. `temperature` 0 is greedy; `top_k` 0, `top_p` 1, `min_p`
    0, `repetition_penalty` 1 and 0 for the other penalties are off.

    Presence and frequency count output tokens, repetition prompt and output. `logit_bias` holds pairs of
    token id and bias. Before `min_tokens` output tokens no end-of-text or stop token is chosen and no stop
    string seen. `logprobs` asks for that many most likely tokens beside each chosen one (0: the chosen one
    alone), `prompt_logprobs` for the same of the prompt; both are the target's own, before all of the above.

    `seed` fixes the output for good: neither drafter, batch, swap nor failover changes a token.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 128
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    seed: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def check(self, vocab_size: int) -> None:
        """Raise `RequestError` naming the first field out of its range, with the range."""
        if self.temperature != 0:
            _within("temperature", self.temperature, MIN_TEMPERATURE, 100.0, "0 (greedy) or ")
        if not 0 < self.top_p <= 1:
            raise _refused("top_p", "greater than 0 and at most 1", self.top_p)
        for name, low, high in _RANGES:
            _within(name, getattr(self, name), low, high)
        _within("min_tokens", self.min_tokens, 0, self.max_tokens)
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                _within(name, getattr(self, name), 0, min(MAX_LOGPROBS, vocab_size))
        if "" in self.stop:
            raise _refused("stop", "without empty strings", self.stop)
        for token in self.stop_token_ids:
            _within("stop_token_ids", token, 0, vocab_size - 1)
        for token, bias in self.logit_bias:
            _within("logit_bias", token, 0, vocab_size - 1, "on token ids ")
            _within("logit_bias", bias, -100.0, 100.0)
        if len({token for token, _ in self.logit_bias}) < len(self.logit_bias):
            raise _refused("logit_bias", "given once per token", self.logit_bias)


MIN_TEMPERATURE = 0.01
"""Smallest temperature that isn't greedy, as in vLLM."""

MAX_LOGPROBS = 20

_RANGES: tuple[tuple[str, float, float], ...] = (
    ("top_k", 0, 2**31 - 1),
    ("min_p", 0.0, 1.0),
    ("max_tokens", 1, 2**31 - 1),
    ("presence_penalty", -2.0, 2.0),
    ("frequency_penalty", -2.0, 2.0),
    ("repetition_penalty", 0.01, 100.0),
)


def _within(name: str, value: float, low: float, high: float, prefix: str = "") -> None:
    if not low <= value <= high:
        raise _refused(name, f"{prefix}from {low} to {high}", value)


def _refused(name: str, accepted: str, value: object) -> RequestError:
    return RequestError(f"{name}: must be {accepted}, got {value!r}", param=name, code="invalid_value")


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate.

    `emitted` are tokens already sent by another replica (or before a preemption): generation goes on
    behind them and, with the same seed, is what it would have been. `prompt_index` and `choice_index`
    separate the noise of the sequences of one API call. `speculate=False` is plain decoding. KV blocks and
    the n-gram memory are shared within a `tenant` only. Without `learn` no record is made of it, and the
    n-gram memory forgets it when it ends. Lower `priority` comes first; within one, first come, first served.
    A request not done `deadline_s` seconds after an engine took it in ends with finish reason "abort".
    Requests of one `session` go to the same replica where that costs nothing. `trace` is the W3C traceparent
    of a sampled trace.
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
    priority: int = 0
    deadline_s: float | None = None
    session: str | None = None
    trace: str | None = None


@dataclass(slots=True)
class SpeculationCounts:
    """Integers only (counts first, ratios last). `tried[k]` counts the steps whose walk reached depth k
    and had drafted depth k + 1; `accepted[k]` those in which a node of depth k + 1 was accepted.
    `ngram_drafted` and `ngram_accepted` are the part of `drafted` and `accepted` that the n-gram memory
    proposed and no head did. Every step's last token is the target's own."""

    steps: int = 0
    committed: int = 0
    drafted: int = 0
    tried: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    ngram_drafted: int = 0
    ngram_accepted: list[int] = field(default_factory=list)

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

    def record_ngram(self, drafted: int, accepted: Sequence[bool]) -> None:
        """Say of a recorded step what was the n-gram memory's: so many nodes, and which accepted depths."""
        self.ngram_drafted += drafted
        if any(accepted):
            self.ngram_accepted += [0] * (len(accepted) - len(self.ngram_accepted))
            for depth, own in enumerate(accepted):
                self.ngram_accepted[depth] += own

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
        self.ngram_drafted += other.ngram_drafted
        self.ngram_accepted += [0] * (len(other.ngram_accepted) - len(self.ngram_accepted))
        for depth, accepted in enumerate(other.ngram_accepted):
            self.ngram_accepted[depth] += accepted

    @property
    def accepted_tokens(self) -> int:
        """Draft tokens that were accepted."""
        return sum(self.accepted)


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A token under the target's own distribution: natural logarithm, `rank` (1: none is likelier; ties count
    against it) and the most likely tokens as (token id, logarithm), best first."""

    token_id: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one engine step gave one request: the new tokens and the text that is safe to show.

    `token_ids` holds every committed token, a final stop token included; `text` never ends in half a
    character and never holds a stop string. The last output has `finish_reason` and the totals. `logprobs`
    goes with `token_ids`; `prompt_logprobs` (None for the first token) comes with the first tokens.

    `drafter_version` is the one that drafted last. Where it was not the only one, `by_version` has the counts
    of each, the last one's last; they add up to `counts`. A replica's last output has the fingerprint of the
    `target` that gave it. `draft` says of a step that had a draft how many nodes it had, and how many of them
    were accepted.
    """

    request_id: str
    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason | None = None
    counts: SpeculationCounts | None = None
    drafter_version: str | None = None
    error: str | None = None
    logprobs: tuple[TokenLogprobs, ...] | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    by_version: tuple[tuple[str | None, SpeculationCounts], ...] = ()
    target: str | None = None
    draft: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Interaction:
    """A finished request as the replay buffer keeps it: token ids and integers, no text.

    `near_ties` is not known while serving. `accepted_lengths` has one entry a step (bonus token
    included), so that `sum(accepted_lengths) == len(output_ids)`. `drafter_version` is the one that drafted
    last; the counts of a request whose drafter changed are split by version where counts are kept, not here.
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
