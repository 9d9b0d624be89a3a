"""What the learner asks of a replica, and what it gets: token ids there, hidden states back.

Shapes: B rows, T positions, X hidden size with that of further layers, N token positions without padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int32]

_FLOATS = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}

Outcome = Literal["made", "busy", "another target", "failed"]
"""`busy`: there are requests, or some came meanwhile; nothing was kept."""


@dataclass(frozen=True, slots=True)
class PrefillOrder:
    """One prefill of the target with this fingerprint; the rest as for `Target.prefill_hidden`."""

    target: str
    tokens_BT: Ids
    lengths_B: Ids
    first_BT: Ids | None = None
    layers: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        target: str,
        token_ids_BT: Tensor,
        lengths_B: Tensor,
        layers: tuple[int, ...] = (),
        first_BT: Tensor | None = None,
    ) -> Self:
        """From tensors on any device."""
        return cls(
            target, _ids(token_ids_BT), _ids(lengths_B), None if first_BT is None else _ids(first_BT), layers
        )

    @property
    def positions(self) -> int:
        """B * T."""
        return int(self.tokens_BT.size)

    def part(self, start: int, end: int) -> PrefillOrder:
        """The same for some of the rows, as wide as the longest of them."""
        lengths_B = self.lengths_B[start:end]
        width = int(lengths_B.max(initial=0))
        first_BT = None if self.first_BT is None else self.first_BT[start:end, :width]
        return PrefillOrder(self.target, self.tokens_BT[start:end, :width], lengths_B, first_BT, self.layers)

    def same(self, other: PrefillOrder) -> bool:
        """Whether both ask for the same."""
        return self._plain() == other._plain()

    def arguments(self, device: torch.device) -> tuple[Tensor, Tensor, tuple[int, ...], Tensor | None]:
        """Those of `Target.prefill_hidden`."""
        first_BT = None if self.first_BT is None else _tensor(self.first_BT, device)
        return _tensor(self.tokens_BT, device), _tensor(self.lengths_B, device), self.layers, first_BT

    def wrong(self, vocab_size: int, max_positions: int) -> str:
        """Why no target of these sizes can read it, or "". On a GPU a wrong id would end the process."""
        columns_T = np.arange(self.tokens_BT.shape[1], dtype=np.int32)
        places = columns_T - (0 if self.first_BT is None else self.first_BT)
        if not self.positions or self.lengths_B.shape != self.tokens_BT.shape[:1]:
            return "rows and lengths don't fit"
        if self.tokens_BT.min() < 0 or self.tokens_BT.max() >= vocab_size:
            return f"token ids must lie between 0 and {vocab_size - 1}"
        if places.min() < 0 or places.max() >= max_positions:
            return f"positions must lie between 0 and {max_positions - 1}"
        return ""

    def inside(self) -> Tensor:
        """Which positions aren't padding, bool [B, T]."""
        return torch.from_numpy(np.arange(self.tokens_BT.shape[1]) < self.lengths_B[:, None])

    def _plain(self) -> tuple[Any, ...]:
        first = None if self.first_BT is None else self.first_BT.tolist()
        return self.target, self.layers, self.tokens_BT.tolist(), self.lengths_B.tolist(), first


@dataclass(frozen=True, slots=True)
class PrefillReply:
    """What came of an order on `replica`. `rows` are the hidden states [N, X] as bytes, in the numbers
    (`dtype`) in which that replica's target, `target`, computes: nothing is rounded on the way."""

    outcome: Outcome
    target: str
    replica: str = ""
    reason: str = ""
    rows: NDArray[np.uint8] | None = None
    dtype: str = "float32"
    slice_ms: float = 0.0
    """The longest slice: how long a request that came meanwhile could have had to wait."""

    @staticmethod
    def packed(hidden_BTX: Tensor, order: PrefillOrder) -> dict[str, Any]:
        """`rows` and `dtype`. Blocks until a GPU has made them."""
        rows_NX = hidden_BTX[order.inside().to(hidden_BTX.device)].cpu().contiguous()
        name = str(hidden_BTX.dtype).removeprefix("torch.")
        return {"rows": rows_NX.view(torch.uint8).numpy(), "dtype": name}

    def hidden(self, order: PrefillOrder) -> Tensor:
        """[B, T, X] on the CPU, zero at padding. ValueError when it isn't what was ordered."""
        dtype = _FLOATS.get(self.dtype)
        inside_BT = order.inside()
        count = int(inside_BT.sum())
        if self.rows is None or dtype is None or self.rows.shape[0] != count:
            raise ValueError(f"{count} rows of hidden states were ordered")
        rows_NX = torch.from_numpy(np.array(self.rows)).view(dtype)
        hidden_BTX = rows_NX.new_zeros(*inside_BT.shape, rows_NX.shape[1])
        hidden_BTX[inside_BT] = rows_NX
        return hidden_BTX


def _ids(ids: Tensor) -> Ids:
    array: Ids = ids.to("cpu", torch.int32).numpy()
    return array


def _tensor(ids: Ids, device: torch.device) -> Tensor:
    return torch.from_numpy(ids.astype(np.int64)).to(device)
