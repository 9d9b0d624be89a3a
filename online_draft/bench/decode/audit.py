"""Every method's outputs against plain decoding's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from online_draft.core import GenerationRequest
from online_draft.decoding.audit import compare_outputs
from online_draft.models.loading import load_target
from online_draft.models.target import Target


class Audit:
    """Classifies differences with a float64 copy of the target, which is loaded when the first one shows."""

    def __init__(self, target: str, device: str) -> None:
        self._target = target
        self._device = device
        self._copy: Target | None = None

    def differences(
        self,
        requests: Sequence[GenerationRequest],
        expected: Sequence[list[int]],
        actual: Sequence[list[int]],
    ) -> dict[Literal["near_tie", "changed"], int]:
        """How many answers differ by rounding and how many otherwise."""
        found: dict[Literal["near_tie", "changed"], int] = {"near_tie": 0, "changed": 0}
        for request, plain, other in zip(requests, expected, actual, strict=True):
            if plain != other:
                difference = compare_outputs(self._float64(), request, plain, other)
                assert difference != "none"
                found[difference] += 1
        return found

    def _float64(self) -> Target:
        if self._copy is None:
            self._copy = load_target(self._target, device=self._device, dtype=torch.float64).target
        return self._copy
