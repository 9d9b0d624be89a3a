"""One request while the engine works on it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from online_draft.core import FinishReason, GenerationRequest, SpeculationCounts, StepOutput, TokenLogprobs
from online_draft.decoding.detokenizer import Detokenizer, StopMatcher
from online_draft.decoding.logprobs import PromptLogprobs
from online_draft.decoding.masks import MaskCursor, TokenMask
from online_draft.decoding.noise import position_key, stream_key
from online_draft.decoding.prefix import block_key, root_key
from online_draft.decoding.processors import processors_for
from online_draft.decoding.sampling import has_filter

if TYPE_CHECKING:
    from online_draft.decoding.drafting.arms import Arm


class Sequence:
    """Tokens, position and output text of a request.

    `tokens` are prompt and output; `length` of them are in the KV cache, of which the first `cached` were
    there already at admission. While decoding, `length == len(tokens) - 1`: the newest token is the root.
    `order` is its place among all requests. A sequence that waits holds nothing: `slot` is -1.
    """

    def __init__(
        self,
        request: GenerationRequest,
        tokenizer: Any,
        eos_token_ids: frozenset[int],
        token_mask: TokenMask | None = None,
    ) -> None:
        self.request = request
        self.sampling = request.sampling
        self.stream = stream_key(request.sampling.seed, request.prompt_index, request.choice_index)
        """What its noise has in common at all positions."""
        self.tokens = [*request.prompt_ids, *request.emitted]
        self.length = 0
        self.order = (request.priority, 0)
        self.slot = -1
        self.blocks: list[int] = []
        self.kv_slots: list[int] = []
        """Of each position that `blocks` have room for."""
        self.followed = request.speculate
        """Whether its hidden rows go into the feature ring, so that it can be drafted for."""
        self.arm: Arm | None = None
        """Who drafts for it; None before it is admitted, and for good where nothing may be drafted."""
        self.remembered = request.learn
        """Whether the n-gram memory may keep what it says."""
        self.cached = 0
        self.registered = 0
        """Leading blocks that the prefix table has been told of."""
        self._block_keys: list[bytes] = []
        self.counts = SpeculationCounts()
        """Of the arm that it has now."""
        self._earlier: list[tuple[str | None, SpeculationCounts]] = []
        self.finish_reason: FinishReason | None = None
        stops = set(request.sampling.stop_token_ids)
        self._stop_ids = stops if request.sampling.ignore_eos else stops | eos_token_ids
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = StopMatcher(request.sampling.stop)
        for count, token in enumerate(request.emitted, start=1):
            self._stops.push(self._detokenizer.push(token), count > request.sampling.min_tokens)
        self.processors = processors_for(request, eos_token_ids, token_mask)
        """None when nothing changes this request's logits."""
        if self.processors is not None:
            self.processors.catch_up(self.tokens)
        self._filtered = has_filter(request.sampling)
        top = request.sampling.prompt_logprobs
        self.prompt_logprobs = None if top is None else PromptLogprobs(request.prompt_ids, top)

    @property
    def decoding(self) -> bool:
        """Whether only the root is missing from the KV cache, and the row before it was computed here."""
        return self.length == len(self.tokens) - 1 and self.generated > 0 and self.length > self.cached

    @property
    def lazy(self) -> bool:
        """Whether its rows are processed one by one, along the walk only."""
        return self._filtered or (self.processors is not None and self.processors.active)

    @property
    def mask(self) -> MaskCursor | None:
        """Where it stands in its token mask."""
        return None if self.processors is None else self.processors.mask

    @property
    def complete(self) -> bool:
        """Whether the token mask allows no token behind the newest one."""
        return self.processors is not None and self.processors.complete_at == self.generated

    @property
    def generated(self) -> int:
        """Output tokens so far, those of another replica included."""
        return len(self.tokens) - len(self.request.prompt_ids)

    @property
    def remaining(self) -> int:
        """Output tokens that may still follow."""
        return self.sampling.max_tokens - self.generated

    @property
    def capacity(self) -> int:
        """Tokens that prompt and longest output take."""
        return len(self.request.prompt_ids) + self.sampling.max_tokens

    def take(self, blocks: list[int], block_size: int) -> None:
        """Hold further blocks, in the order of positions."""
        self.blocks += blocks
        for block in blocks:
            self.kv_slots.extend(range(block * block_size, (block + 1) * block_size))

    def let_go(self) -> None:
        """Hold nothing any more; to go on, everything has to be computed again."""
        self.slot = -1
        self.followed = self.request.speculate
        self.blocks, self.kv_slots = [], []
        self.length = self.cached = self.registered = 0

    def start_over(self) -> None:
        """Another target computes it: nothing is known of it yet. Only while it waits and hasn't begun."""
        assert self.slot == -1 and not self.generated, "a sequence that has begun can't start over"
        self.arm = None
        if self.sampling.prompt_logprobs is not None:
            self.prompt_logprobs = PromptLogprobs(self.request.prompt_ids, self.sampling.prompt_logprobs)

    def block_keys(self, count: int, block_size: int) -> list[bytes]:
        """Prefix keys of the first `count` blocks, all full. Each is made once."""
        keys = self._block_keys
        for start in range(len(keys) * block_size, count * block_size, block_size):
            parent = keys[-1] if keys else root_key(self.request.tenant)
            keys.append(block_key(parent, self.tokens[start : start + block_size]))
        return keys[:count]

    def draft_with(self, arm: Arm) -> None:
        """Be drafted for by this arm from now on. What was counted so far is its forerunner's."""
        if self.counts.steps and self.version != arm.version:
            self._earlier.append((self.version, self.counts))
            self.counts = SpeculationCounts()
        self.arm = arm

    @property
    def version(self) -> str | None:
        """What drafts for it, None if nothing does."""
        return None if self.arm is None else self.arm.version

    def key(self, depth: int) -> int:
        """Noise key of the token chosen at a node of this depth (0 is the root)."""
        return position_key(self.stream, len(self.tokens) + depth)

    def commit(self, tokens: list[int]) -> tuple[list[int], str]:
        """Append tokens one by one until one of them ends the request; sets `finish_reason`.

        Returns the tokens that count and the text that is safe to show. Tokens behind the end are
        discarded, as plain decoding would never have chosen them.
        """
        if self._carefree(tokens):
            self.tokens += tokens
            return tokens, self._detokenizer.push_all(tokens)
        text = ""
        for count, token in enumerate(tokens, start=1):
            self.tokens.append(token)
            may_end = self.generated > self.sampling.min_tokens
            if token in self._stop_ids:
                self.finish_reason = "stop"
            else:
                safe, matched = self._stops.push(self._detokenizer.push(token), may_end)
                text += safe
                if matched:
                    self.finish_reason = "stop"
                    return tokens[:count], text
                if self.complete:
                    self.finish_reason = "stop"
                elif self.remaining <= 0:
                    self.finish_reason = "length"
            if self.finish_reason is not None:
                safe, matched = self._stops.push(self._detokenizer.flush(), may_end)
                return tokens[:count], text + safe + ("" if matched else self._stops.flush())
        return tokens, text

    def _carefree(self, tokens: list[int]) -> bool:
        """Whether none of these tokens can end the request."""
        return (
            not self.sampling.stop
            and len(tokens) < self.remaining
            and self.mask is None
            and self._stop_ids.isdisjoint(tokens)
        )

    def output(
        self,
        tokens: list[int],
        text: str,
        logprobs: tuple[TokenLogprobs, ...] | None = None,
        draft: tuple[int, int] | None = None,
    ) -> StepOutput:
        """This step's output; the first one carries the prompt's log-probabilities, the last one the counts.

        `logprobs` may go on behind `tokens`.
        """
        final = self.finish_reason is not None
        by_version = self._by_version() if final and self._earlier else {}
        counts = self.counts
        if by_version:
            counts = SpeculationCounts()
            for part in by_version.values():
                counts.add(part)
        return StepOutput(
            request_id=self.request.request_id,
            token_ids=tuple(tokens),
            text=text,
            finish_reason=self.finish_reason,
            counts=counts if final else None,
            drafter_version=self.version if final else None,
            logprobs=None if logprobs is None else logprobs[: len(tokens)],
            prompt_logprobs=None if self.prompt_logprobs is None else self.prompt_logprobs.deliver(),
            by_version=tuple(by_version.items()) if len(by_version) > 1 else (),
            draft=draft,
        )

    def abort(self, error: str) -> StepOutput:
        """The last output of a request that is given up."""
        self.finish_reason = "abort"
        return replace(self.output([], ""), error=error)

    def _by_version(self) -> dict[str | None, SpeculationCounts]:
        """Counts of each version that drafted for it, that of now last."""
        found: dict[str | None, SpeculationCounts] = {}
        for version, counts in (*self._earlier, (self.version, self.counts)):
            known = found.pop(version, SpeculationCounts())
            known.add(counts)
            found[version] = known
        return found
