"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from online_draft.core import Interaction


@pytest.fixture
def make_interaction() -> Callable[..., Interaction]:
    """A factory: `make_interaction(index, **changes)`; another index is another prompt and output."""

    def make(index: int = 0, **changes: Any) -> Interaction:
        fields: dict[str, Any] = {
            "target": "llama-0123456789abcdef-01234567",
            "tenant": "default",
            "segment": "sql",
            "prompt_ids": (1, *(int(digit) + 10 for digit in f"{index:06d}"), 2047),
            "output_ids": (5, 6, 7, 300 + index % 1000, 2),
            "temperature": 0.7,
            "top_p": 1.0,
            "top_k": 0,
            "seed": 1234 + index,
            "prompt_index": 0,
            "choice_index": 0,
            "accepted_lengths": (3, 2),
            "tried": (2, 2, 1),
            "accepted": (2, 1, 0),
            "drafter_version": "baseline",
            "finished_at_ms": 1_700_000_000_000 + index,
        }
        return Interaction(**{**fields, **changes})

    return make
