"""From recorded token ids to what training and replay look at: one prefill of the target.

Shapes: B records, T positions, F hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from online_draft.decoding.noise import stream_key
from online_draft.models.target import Target


class Record(Protocol):
    """What training needs of a finished request; `core.Interaction` has it too."""

    @property
    def prompt_ids(self) -> tuple[int, ...]: ...

    @property
    def output_ids(self) -> tuple[int, ...]: ...

    @property
    def temperature(self) -> float: ...

    @property
    def seed(self) -> int: ...

    @property
    def prompt_index(self) -> int: ...

    @property
    def choice_index(self) -> int: ...


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """One prompt and the target's answer to it, as token ids."""

    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    prompt_index: int = 0
    choice_index: int = 0


@dataclass(frozen=True, slots=True)
class Features:
    """Records padded on the right, and the target's last hidden states on them.

    `starts_B` is the index of the first output token, `lengths_B` the number of tokens.
    """

    tokens_BT: Tensor
    starts_B: Tensor
    lengths_B: Tensor
    temperatures_B: Tensor
    hidden_BTF: Tensor
    wide_BTX: Tensor | None = None
    """The hidden states with those of further layers beside them, for drafters with `feature_layers`."""
    streams_B: Tensor | None = None
    """Of the noise that sampled records were chosen with (`decoding.noise.stream_key`); None: not known."""

    @property
    def rows_BTX(self) -> Tensor:
        """What a drafter reads."""
        return self.hidden_BTF if self.wide_BTX is None else self.wide_BTX

    @property
    def next_tokens_BT(self) -> Tensor:
        """The token behind each position; 0 behind the last."""
        return torch.nn.functional.pad(self.tokens_BT[:, 1:], (0, 1))


@torch.no_grad()
def extract(
    target: Target,
    records: Sequence[Record],
    max_tokens: int | None = None,
    layers: tuple[int, ...] = (),
) -> Features:
    """One prefill over whole records, each cut off behind `max_tokens` tokens. No gradients.

    `layers` are the `feature_layers` of the drafter that is to read the result.
    """
    limit = target.config.max_position_embeddings
    limit = limit if max_tokens is None else min(limit, max_tokens)
    rows = [[*record.prompt_ids, *record.output_ids][:limit] for record in records]
    longest = max(len(row) for row in rows)
    device = target.device
    tokens_BT = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    lengths_B = torch.tensor([len(row) for row in rows], device=device)
    rows_BTX = target.prefill_hidden(tokens_BT, lengths_B, layers)
    return Features(
        tokens_BT=tokens_BT,
        starts_B=torch.tensor([len(record.prompt_ids) for record in records], device=device),
        lengths_B=lengths_B,
        temperatures_B=torch.tensor([record.temperature for record in records], device=device),
        hidden_BTF=rows_BTX[..., : target.config.hidden_size] if layers else rows_BTX,
        wide_BTX=rows_BTX if layers else None,
        streams_B=torch.tensor(
            [stream_key(record.seed, record.prompt_index, record.choice_index) for record in records]
        ),
    )
