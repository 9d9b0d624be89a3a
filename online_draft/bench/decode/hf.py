"""Transformers' own `generate` on the same weights, dtype and threads: what others would use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from online_draft.core import GenerationRequest, SpeculationCounts
from online_draft.models.loading import LoadedTarget

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

LOOKUP_TOKENS = 10
"""`prompt_lookup_num_tokens`, the value of transformers' documentation."""


class HfMethod:
    """`hf-generate`, or `hf-prompt-lookup` with `lookup`, in static batches of `batch` padded on the left."""

    def __init__(self, loaded: LoadedTarget, batch: int, lookup: bool) -> None:
        self.counts = SpeculationCounts()
        self.exact = True
        self._model = _load(loaded)
        self._eos = list(loaded.config.eos_token_ids)
        self._batch = batch
        self._lookup = lookup
        self._forwards = 0
        self._model.register_forward_pre_hook(self._count)

    def prepare(self, requests: Sequence[GenerationRequest], answers: Sequence[list[int]] | None) -> None:
        """Sampling draws noise of its own, so only greedy answers can be compared with plain ones."""
        self.exact = all(request.sampling.temperature == 0 for request in requests)

    @torch.inference_mode()
    def answer(self, requests: Sequence[GenerationRequest]) -> list[list[int]]:
        """Batch after batch."""
        outputs: list[list[int]] = []
        for begin in range(0, len(requests), self._batch):
            outputs += self._generate(requests[begin : begin + self._batch])
        return outputs

    def speculation(self) -> dict[str, Any]:
        """Transformers has no such policy."""
        return {"calibration": None, "buckets": None, "ngram": None}

    def _generate(self, requests: Sequence[GenerationRequest]) -> list[list[int]]:
        longest = max(len(request.prompt_ids) for request in requests)
        pads = [longest - len(request.prompt_ids) for request in requests]
        pad_id = self._eos[0] if self._eos else 0
        device = self._model.device
        tokens = [[pad_id] * pad + [*r.prompt_ids] for pad, r in zip(pads, requests, strict=True)]
        tokens_BT = torch.tensor(tokens, device=device)
        mask_BT = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in pads], device=device)
        settings: dict[str, Any] = {
            "max_new_tokens": max(request.sampling.max_tokens for request in requests),
            "eos_token_id": self._eos or None,
            "pad_token_id": pad_id,
            "do_sample": False,
        }
        if requests[0].sampling.temperature > 0:
            torch.manual_seed(requests[0].sampling.seed % 2**63)
            settings |= {"do_sample": True, "temperature": requests[0].sampling.temperature, "top_k": 0}
        if self._lookup:
            settings["prompt_lookup_num_tokens"] = LOOKUP_TOKENS
        self._forwards = 0
        generate: Any = self._model.generate
        found_BT: torch.Tensor = generate(
            tokens_BT, attention_mask=mask_BT, generation_config=_config(**settings)
        )
        answers = [
            self._cut(row[longest:], request.sampling.max_tokens)
            for row, request in zip(found_BT.tolist(), requests, strict=True)
        ]
        committed = sum(map(len, answers))
        self.counts.steps += self._forwards if self._lookup else committed
        self.counts.committed += committed
        return answers

    def _cut(self, tokens: list[int], limit: int) -> list[int]:
        """An answer without what padding and longer neighbours added."""
        end = next((i + 1 for i, token in enumerate(tokens) if token in self._eos), len(tokens))
        return tokens[: min(end, limit)]

    def _count(self, *_: Any) -> None:
        self._forwards += 1


def _load(loaded: LoadedTarget) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model: Any = AutoModelForCausalLM.from_pretrained(
        loaded.path, dtype=loaded.target.dtype, local_files_only=True
    )
    model.generation_config = _config()
    placed: PreTrainedModel = model.to(loaded.target.device).eval()
    return placed


def _config(**settings: Any) -> GenerationConfig:
    """A configuration in which nothing of the model's own defaults is left."""
    from transformers import GenerationConfig

    return GenerationConfig(**settings)  # type: ignore[no-untyped-call]
