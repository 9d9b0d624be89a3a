"""Log-probabilities of chosen tokens and of prompts: the target's own, before any processing.

Shapes: N rows, F hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from online_draft.core import TokenLogprobs

_PROMPT_ROWS = 64
"""Rows of a prompt whose logits exist at the same time."""


def token_logprobs(logits_NV: Tensor, tokens: Sequence[int], top: int) -> tuple[TokenLogprobs, ...]:
    """For each row its token's log-probability and rank, and the `top` most likely tokens.

    At least float32. Synchronises with the device.
    """
    if logits_NV.dtype.itemsize < 4:
        logits_NV = logits_NV.float()
    logprobs_NV = logits_NV.log_softmax(-1)
    token_N1 = torch.tensor(tokens, device=logits_NV.device).unsqueeze(1)
    chosen_N1 = logprobs_NV.gather(1, token_N1)
    ranks = (logprobs_NV >= chosen_N1).sum(-1).tolist()
    best = logprobs_NV.topk(top, dim=-1)
    tops = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return tuple(
        TokenLogprobs(token, logprob, rank, tuple(zip(ids, values, strict=True)))
        for token, logprob, rank, (ids, values) in zip(
            tokens, chosen_N1[:, 0].tolist(), ranks, tops, strict=True
        )
    )


class PromptLogprobs:
    """Collects one prompt's log-probabilities while its chunks pass, and gives them away once.

    Outlives a preemption: rows computed a second time are skipped.
    """

    def __init__(self, prompt_ids: tuple[int, ...], top: int) -> None:
        self._prompt_ids = prompt_ids
        self._top = top
        self._next = 0
        self._collected: list[TokenLogprobs | None] | None = [None]

    def take(self, start: int, hidden_NF: Tensor, logits: Callable[[Tensor], Tensor]) -> None:
        """Score the tokens behind positions start .. start + N - 1, whose final hidden states these are.

        `logits` is the LM head. Positions must not be left out.
        """
        end = min(start + hidden_NF.shape[0], len(self._prompt_ids) - 1)
        if self._collected is None or self._next >= end:
            return
        assert start <= self._next, "rows of the prompt were left out"
        while self._next < end:
            stop = min(self._next + _PROMPT_ROWS, end)
            logits_NV = logits(hidden_NF[self._next - start : stop - start])
            tokens = self._prompt_ids[self._next + 1 : stop + 1]
            self._collected += token_logprobs(logits_NV, tokens, self._top)
            self._next = stop

    def deliver(self) -> tuple[TokenLogprobs | None, ...] | None:
        """All of them, the first time that they are complete; None else."""
        if self._collected is None or len(self._collected) < len(self._prompt_ids):
            return None
        collected, self._collected = tuple(self._collected), None
        return collected
