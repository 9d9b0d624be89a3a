"""One request while the engine works on it."""

from __future__ import annotations

from typing import Any

from online_draft.core import FinishReason, GenerationRequest, SpeculationCounts, StepOutput
from online_draft.decoding.detokenizer import Detokenizer, StopMatcher
from online_draft.decoding.noise import noise_key


class Sequence:
    """Tokens, position and output text of a running request.

    `tokens` are prompt and output; `length` of them are in the KV cache. While decoding,
    `length == len(tokens) - 1`: the newest token is the root.
    """

    def __init__(self, request: GenerationRequest, tokenizer: Any, eos_token_ids: frozenset[int]) -> None:
        self.request = request
        self.sampling = request.sampling
        self.tokens = [*request.prompt_ids, *request.emitted]
        self.length = 0
        self.slot = -1
        self.kv_slots: list[int] = []
        self.counts = SpeculationCounts()
        self.finish_reason: FinishReason | None = None
        stops = set(request.sampling.stop_token_ids)
        self._stop_ids = stops if request.sampling.ignore_eos else stops | eos_token_ids
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = StopMatcher(request.sampling.stop)
        for token in request.emitted:
            self._stops.push(self._detokenizer.push(token))

    @property
    def decoding(self) -> bool:
        """Whether only the root is missing from the KV cache."""
        return self.length == len(self.tokens) - 1 and self.generated > 0

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

    def key(self, depth: int) -> int:
        """Noise key of the token chosen at a node of this depth (0 is the root)."""
        request = self.request
        position = len(self.tokens) + depth
        return noise_key(self.sampling.seed, request.prompt_index, request.choice_index, position)

    def commit(self, tokens: list[int]) -> tuple[list[int], str]:
        """Append tokens one by one until one of them ends the request; sets `finish_reason`.

        Returns the tokens that count and the text that is safe to show. Tokens behind the end are
        discarded, as plain decoding would never have chosen them.
        """
        text = ""
        for count, token in enumerate(tokens, start=1):
            self.tokens.append(token)
            if token in self._stop_ids:
                self.finish_reason = "stop"
            else:
                safe, matched = self._stops.push(self._detokenizer.push(token))
                text += safe
                if matched:
                    self.finish_reason = "stop"
                    return tokens[:count], text
                if self.remaining <= 0:
                    self.finish_reason = "length"
            if self.finish_reason is not None:
                safe, matched = self._stops.push(self._detokenizer.flush())
                return tokens[:count], text + safe + ("" if matched else self._stops.flush())
        return tokens, text

    def output(self, tokens: list[int], text: str, version: str | None) -> StepOutput:
        """This step's output; the last one carries the counts."""
        final = self.finish_reason is not None
        return StepOutput(
            request_id=self.request.request_id,
            token_ids=tuple(tokens),
            text=text,
            finish_reason=self.finish_reason,
            counts=self.counts if final else None,
            drafter_version=version if final else None,
        )
