"""Changes to one sequence's logits that depend on its tokens: mask, `min_tokens`, bias, penalties.

Shapes: V vocabulary.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from online_draft.core import GenerationRequest
from online_draft.decoding.masks import MaskCursor, TokenMask


class Processors:
    """What one request does to its logits before temperature, and what that remembers of its tokens.

    Rows are processed one by one along the walk: `apply` to a row, then `push` the token chosen there. All of
    it follows from the request and the output tokens, so it can be made anew at any time.
    """

    def __init__(
        self, request: GenerationRequest, eos_token_ids: frozenset[int], token_mask: TokenMask | None = None
    ) -> None:
        sampling = request.sampling
        stops = frozenset(sampling.stop_token_ids)
        self._prompt_ids = request.prompt_ids
        self._min_tokens = sampling.min_tokens
        self._ending_ids = sorted(stops | eos_token_ids)
        self._bias = dict(sampling.logit_bias)
        self._repetition = sampling.repetition_penalty
        self._presence = sampling.presence_penalty
        self._frequency = sampling.frequency_penalty
        self._penalizes = self._repetition != 1 or self._presence != 0 or self._frequency != 0
        self._counts: Counter[int] = Counter()
        self._generated = 0
        self.mask: MaskCursor | None = None
        """Where the sequence stands in its token mask."""
        self.complete_at: int | None = None
        """Output tokens behind which the mask allows no more."""
        if token_mask is not None:
            ends = stops if sampling.ignore_eos else stops | eos_token_ids
            self.mask = MaskCursor(token_mask, request.prompt_ids, ends)
            self.complete_at = 0 if self.mask.exhausted else None
        self._bias_ids: Tensor | None = None
        self._bias_values: Tensor | None = None
        self._seen_V: Tensor | None = None
        self._offset_V: Tensor | None = None

    @property
    def active(self) -> bool:
        """Whether any row is still to be changed."""
        return (
            self._penalizes or bool(self._bias) or self.mask is not None or self._generated < self._min_tokens
        )

    def push(self, token: int) -> None:
        """Take in the next output token."""
        self._generated += 1
        if self._penalizes:
            self._counts[token] += 1
            if self._offset_V is not None:
                self._offset_V[token] = self._offset(token)
            if self._seen_V is not None:
                self._seen_V[token] = True
        if self.mask is not None:
            self.mask.push(token)
            if self.mask.exhausted and self.complete_at is None:
                self.complete_at = self._generated

    def catch_up(self, tokens: list[int]) -> None:
        """Take in what `tokens` (prompt and output) has beyond the tokens pushed so far."""
        for at in range(len(self._prompt_ids) + self._generated, len(tokens)):
            self.push(tokens[at])

    def apply(self, logits_V: Tensor) -> Tensor:
        """The next token's scores, in vLLM's order; its logits are left as they are."""
        scores_V = logits_V.clone()
        forbidden_V = self._forbidden(logits_V)
        if forbidden_V is not None:
            scores_V.masked_fill_(forbidden_V, float("-inf"))
        if self._bias:
            if self._bias_ids is None or self._bias_values is None:
                self._bias_ids = torch.tensor(list(self._bias), device=logits_V.device)
                self._bias_values = logits_V.new_tensor(list(self._bias.values()))
            scores_V[self._bias_ids] += self._bias_values
        if self._repetition != 1:
            if self._seen_V is None:
                self._seen_V = torch.zeros_like(logits_V, dtype=torch.bool)
                self._seen_V[list({*self._prompt_ids, *self._counts})] = True
            penalized_V = torch.where(scores_V > 0, scores_V / self._repetition, scores_V * self._repetition)
            scores_V = torch.where(self._seen_V, penalized_V, scores_V)
        if self._presence != 0 or self._frequency != 0:
            if self._offset_V is None:
                self._offset_V = torch.zeros_like(logits_V)
                self._offset_V[list(self._counts)] = logits_V.new_tensor(
                    [self._offset(token) for token in self._counts]
                )
            scores_V -= self._offset_V
        return scores_V

    def _offset(self, token: int) -> float:
        return self._frequency * self._counts[token] + self._presence

    def _forbidden(self, logits_V: Tensor) -> Tensor | None:
        """Tokens that can't come next. A mask that allows nothing but an end overrules `min_tokens`."""
        allowed_V = None if self.mask is None else self.mask.allowed_V
        forbidden_V = None if allowed_V is None else ~allowed_V.to(logits_V.device)
        if self._generated >= self._min_tokens or not self._ending_ids:
            return forbidden_V
        early_V = torch.zeros_like(logits_V, dtype=torch.bool) if forbidden_V is None else forbidden_V.clone()
        early_V[self._ending_ids] = True
        return forbidden_V if forbidden_V is not None and bool(early_V.all()) else early_V


def processors_for(
    request: GenerationRequest, eos_token_ids: frozenset[int], token_mask: TokenMask | None = None
) -> Processors | None:
    """The request's processors, None when it has none."""
    processors = Processors(request, eos_token_ids, token_mask)
    return processors if processors.active else None
