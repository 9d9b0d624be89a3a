"""From logits to a token: processors, temperature, filters, and the Gumbel maximum.

Plain and speculative decoding choose every token through this file.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from online_draft.core import SamplingParams
from online_draft.decoding.processors import Processors


def has_filter(params: SamplingParams) -> bool:
    """Whether tokens are filtered before sampling (then rows are processed lazily along the walk)."""
    return params.temperature > 0 and (params.top_p < 1.0 or params.top_k > 0 or params.min_p > 0)


def score_type(dtype: torch.dtype) -> torch.dtype:
    """The type that logits of this type are processed in: float32 at least."""
    return dtype if dtype.itemsize >= 4 else torch.float32


def perturbed_scores(logits_V: Tensor, params: SamplingParams, noise_V: Tensor | None) -> Tensor:
    """Scores [V] whose maximum is the token: log p + g up to a constant, -inf where filtered out.

    `noise_V` is None for greedy decoding (g = 0), where the scores are the logits. Filters apply in vLLM's
    order: min_p, top_k, then top_p on what those left.
    """
    if params.temperature == 0 or noise_V is None:
        return logits_V
    scores_V = logits_V / params.temperature
    if params.min_p > 0:
        floor = scores_V.max() + math.log(params.min_p)
        scores_V = scores_V.masked_fill(scores_V < floor, float("-inf"))
    if params.top_k > 0:
        kth = scores_V.topk(min(params.top_k, scores_V.shape[-1])).values[-1]
        scores_V = scores_V.masked_fill(scores_V < kth, float("-inf"))
    if params.top_p < 1.0:
        ordered, index = scores_V.softmax(-1).sort(descending=True, stable=True)
        outside = ordered.cumsum(-1) - ordered >= params.top_p
        scores_V = scores_V.masked_fill(torch.zeros_like(outside).scatter_(0, index, outside), float("-inf"))
    return scores_V + noise_V


def choose(
    logits_V: Tensor, params: SamplingParams, noise_V: Tensor | None, processors: Processors | None = None
) -> int:
    """The token that these logits and this noise give. Deterministic."""
    scores_V = logits_V.to(score_type(logits_V.dtype))
    if processors is not None:
        scores_V = processors.apply(scores_V)
    return int(perturbed_scores(scores_V, params, noise_V).argmax())


def choose_rows(logits_NV: Tensor, temperature_N1: Tensor | None, noise_NV: Tensor | None) -> Tensor:
    """`choose` for many unprocessed rows at once [N]. Greedy rows carry temperature 1 and zero noise;
    None for both when every row is greedy."""
    if temperature_N1 is None or noise_NV is None:
        return logits_NV.argmax(-1)
    return (logits_NV / temperature_N1).add_(noise_NV).argmax(-1)
