"""A target that reads each record once: rows of one table learn from the same records again and again.

Shapes: B sequences, T positions, X hidden size, with that of further layers.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from online_draft.models.target import Target

_LIMIT_BYTES = 1 << 29


class RememberedTarget:
    """Everything of a target, whose `prefill_hidden` keeps what it has computed, up to half a gigabyte.

    The longest unused are forgotten first. Sums are those of the batch in which a sequence came first.
    """

    def __init__(self, target: Target, limit_bytes: int = _LIMIT_BYTES) -> None:
        self._target = target
        self._limit = limit_bytes
        self._bytes = 0
        self._rows: OrderedDict[tuple[tuple[int, ...], tuple[int, ...]], Tensor] = OrderedDict()

    @classmethod
    def of(cls, target: Target) -> Target:
        """As the target that it stands for."""
        return cast(Target, cls(target))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    @torch.no_grad()
    def prefill_hidden(
        self,
        token_ids_BT: Tensor,
        lengths_B: Tensor,
        layers: tuple[int, ...] = (),
        first_BT: Tensor | None = None,
    ) -> Tensor:
        """As the target's; packed rows are not remembered."""
        if first_BT is not None:
            return self._target.prefill_hidden(token_ids_BT, lengths_B, layers, first_BT)
        lengths = lengths_B.tolist()
        texts = [tuple(row[:length]) for row, length in zip(token_ids_BT.tolist(), lengths, strict=True)]
        known: dict[tuple[int, ...], Tensor] = {}
        for text in texts:
            if (text, layers) in self._rows:
                self._rows.move_to_end((text, layers))
                known[text] = self._rows[text, layers]
        fresh = [index for index, text in enumerate(texts) if text not in known]
        if fresh:
            longest = max(lengths[index] for index in fresh)
            made_BTX = self._target.prefill_hidden(token_ids_BT[fresh, :longest], lengths_B[fresh], layers)
            for row_TX, index in zip(made_BTX, fresh, strict=True):
                known[texts[index]] = row_TX[: lengths[index]].clone()
                self._keep((texts[index], layers), known[texts[index]])
        rows_BTX = pad_sequence([known[text] for text in texts], batch_first=True)
        missing = token_ids_BT.shape[1] - rows_BTX.shape[1]
        return torch.nn.functional.pad(rows_BTX, (0, 0, 0, missing)) if missing else rows_BTX

    def _keep(self, key: tuple[tuple[int, ...], tuple[int, ...]], row_TX: Tensor) -> None:
        if key not in self._rows:
            self._bytes += row_TX.nbytes
        self._rows[key] = row_TX
        while self._bytes > self._limit and self._rows:
            _, old = self._rows.popitem(last=False)
            self._bytes -= old.nbytes
