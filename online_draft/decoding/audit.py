"""Why two outputs differ: rounding at a near-tie, or a defect.

Floating-point rounding depends on the shape of a batch. A first difference is excused only when a
float64 recomputation shows that both tokens were within reach of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.masks import TokenMask
from online_draft.decoding.noise import gumbel, noise_key
from online_draft.decoding.processors import Processors, processors_for
from online_draft.models.target import Target

TOLERANCE = 5e-4
"""Largest gap between perturbed scores (or to a filter's threshold) that float32 rounding may bridge."""

Difference = Literal["none", "near_tie", "changed"]


@torch.inference_mode()
def compare_outputs(
    target64: Target,
    request: GenerationRequest,
    expected: Sequence[int],
    actual: Sequence[int],
    token_mask: TokenMask | None = None,
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
    processors = processors_for(request, frozenset(target64.config.eos_token_ids), token_mask)
    if processors is not None:
        processors.catch_up(prefix)
    reachable = reachable_tokens(logits_V, request.sampling, noise_V, processors)
    return "near_tie" if {expected[at], actual[at]} <= reachable else "changed"


def reachable_tokens(
    logits_V: Tensor, params: SamplingParams, noise_V: Tensor, processors: Processors | None = None
) -> set[int]:
    """Tokens that an error of up to `TOLERANCE` in the scores or thresholds could make the choice.

    `processors` have taken in the output so far; None where the request has none.
    """
    if processors is not None:
        logits_V = processors.apply(logits_V)
    if params.temperature == 0:
        return set((logits_V >= logits_V.max() - TOLERANCE).nonzero()[:, 0].tolist())
    scores_V = logits_V / params.temperature
    maybe_V = scores_V > float("-inf")
    surely_V = maybe_V.clone()
    above_V, around_V, weight_V, mass = _order(scores_V)
    if params.min_p > 0:
        best, second = scores_V.topk(2).values
        floor_V = torch.where(scores_V >= best, second, best) + math.log(params.min_p)
        surely_V &= scores_V >= floor_V + TOLERANCE
        maybe_V &= scores_V >= floor_V - TOLERANCE
    if params.top_k > 0:
        surely_V &= around_V <= params.top_k
        maybe_V &= above_V < params.top_k
    if params.top_p < 1.0:
        most, least = weight_V[maybe_V].sum(), weight_V[surely_V].sum().clamp(min=float(weight_V.max()))
        surely_V &= (mass[around_V] - weight_V) / least < params.top_p - TOLERANCE
        maybe_V &= mass[above_V] / most < params.top_p + TOLERANCE
    perturbed_V = scores_V + noise_V
    if bool(surely_V.any()):
        maybe_V &= perturbed_V >= perturbed_V[surely_V].max() - TOLERANCE
    return set(maybe_V.nonzero()[:, 0].tolist())


def _order(scores_V: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where rounding may put each token among the others.

    How many scores are surely above each one [V], how many may not be below it (itself included) [V], the
    unnormalised probability of each [V] and of the i largest together [V + 1].
    """
    weight_V = (scores_V - scores_V.max()).exp()
    ordered, index = scores_V.sort(descending=True)
    above_V = torch.searchsorted(-ordered, -(scores_V + TOLERANCE))
    around_V = torch.searchsorted(-ordered, -(scores_V - TOLERANCE), right=True)
    return above_V, around_V, weight_V, torch.nn.functional.pad(weight_V[index].cumsum(0), (1, 0))
