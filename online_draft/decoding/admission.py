"""What a request must be for an engine to take it."""

from __future__ import annotations

from dataclasses import dataclass

from online_draft.core import GenerationRequest
from online_draft.decoding.masks import TokenMask
from online_draft.decoding.scheduler import Scheduler
from online_draft.decoding.sequence import Sequence
from online_draft.errors import RequestError
from online_draft.models.loading import LoadedTarget


@dataclass(frozen=True, slots=True)
class Admission:
    """Turns requests into sequences, or says what is wrong with them."""

    loaded: LoadedTarget
    scheduler: Scheduler
    blocks: int
    """KV blocks that one request may have at most."""
    max_context: int

    def sequence(self, request: GenerationRequest, token_mask: TokenMask | None) -> Sequence:
        """The sequence of a request that fits. Raises `RequestError`, which names the field."""
        config = self.loaded.config
        if not request.prompt_ids:
            raise RequestError("the prompt is empty", param="prompt")
        request.sampling.check(config.vocab_size)
        sequence = Sequence(request, self.loaded.tokenizer, frozenset(config.eos_token_ids), token_mask)
        if sequence.complete:
            raise RequestError("token_mask: allows no further token", param="token_mask")
        if len(request.prompt_ids) >= self.max_context or sequence.capacity > self.max_context:
            raise RequestError(
                f"prompt ({len(request.prompt_ids)} tokens) and max_tokens ({request.sampling.max_tokens}) "
                f"exceed the context of {self.max_context} tokens",
                param="max_tokens" if len(request.prompt_ids) < self.max_context else "prompt",
                code="context_length_exceeded",
            )
        needed = self.scheduler.room_for(sequence, sequence.capacity)
        if needed > self.blocks:
            raise RequestError(
                f"the request needs {needed} KV blocks, the cache has {self.blocks}", param="max_tokens"
            )
        if request.deadline_s is not None and not request.deadline_s > 0:
            raise RequestError(
                f"deadline_s: must be greater than 0, got {request.deadline_s}", param="deadline_s"
            )
        if sequence.remaining <= 0:
            raise RequestError("max_tokens: nothing is left to generate", param="max_tokens")
        if request.request_id in self.scheduler:
            raise RequestError(f"request id {request.request_id!r} is running already", param="request_id")
        return sequence
