"""Why two outputs differ: rounding at a near-tie, or a defect.

Floating-point rounding depends on the shape of a batch. A first difference is excused only when a
float64 recomputation shows that both tokens were within reach of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.noise import gumbel, noise_key
from online_draft.models.target import Target

TOLERANCE = 5e-4
"""Largest gap between perturbed scores (or to a filter's threshold) that float32 rounding may bridge."""

Difference = Literal["none", "near_tie", "changed"]


@torch.inference_mode()
def compare_outputs(
    target64: Target, request: GenerationRequest, expected: Sequence[int], actual: Sequence[int]
) -> Difference:
    """Classify the first difference of two outputs of one request. `target64` is a float64 copy."""
    if list(expected) == list(actual):
        return "none"
    at = next((i for i, (a, b) in enumerate(zip(expected, actual, strict=False)) if a != b), None)
    if at is None:
        return "changed"
    prefix = [*request.prompt_ids, *expected[:at]]
    tokens_BT = torch.tensor([prefix], device=target64.device)
    lengths_B = torch.tensor([len(prefix)], device=target64.device)
    logits_V = target64.logits(target64.prefill_hidden(tokens_BT, lengths_B)[0, -1:])[0]
    key = noise_key(request.sampling.seed, request.prompt_index, request.choice_index, len(prefix))
    noise_V = gumbel([key], torch.arange(logits_V.shape[0], device=logits_V.device))[0].to(logits_V.dtype)
    reachable = reachable_tokens(logits_V, request.sampling, noise_V)
    return "near_tie" if {expected[at], actual[at]} <= reachable else "changed"


def reachable_tokens(logits_V: Tensor, params: SamplingParams, noise_V: Tensor) -> set[int]:
    """Tokens that an error of up to `TOLERANCE` in the scores or thresholds could make the choice."""
    if params.temperature == 0:
        return set((logits_V >= logits_V.max() - TOLERANCE).nonzero()[:, 0].tolist())
    scores_V = logits_V / params.temperature
    surely_V = torch.ones_like(scores_V, dtype=torch.bool)
    maybe_V = surely_V.clone()
    if params.top_k > 0:
        kth = scores_V.topk(min(params.top_k, scores_V.shape[-1])).values[-1]
        surely_V &= scores_V >= kth + TOLERANCE
        maybe_V &= scores_V >= kth - TOLERANCE
    if params.top_p < 1.0:
        kept_V = scores_V.masked_fill(~maybe_V, float("-inf"))
        ordered, index = kept_V.softmax(-1).sort(descending=True, stable=True)
        before_V = torch.empty_like(ordered).scatter_(0, index, ordered.cumsum(-1) - ordered)
        surely_V &= before_V < params.top_p - TOLERANCE
        maybe_V &= before_V < params.top_p + TOLERANCE
    perturbed_V = scores_V + noise_V
    floor = perturbed_V[surely_V].max() if bool(surely_V.any()) else perturbed_V[maybe_V].max()
    return set((maybe_V & (perturbed_V >= floor - TOLERANCE)).nonzero()[:, 0].tolist())
