"""Several records in one row, so that little of a prefill is padding. No record sees another.

Shapes: D records, B rows, T positions, A anchors, K heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from online_draft.models.target import Target
from online_draft.training.anchors import Anchors
from online_draft.training.features import Features, Record


@dataclass(frozen=True, slots=True)
class Packed:
    """`rows` are what target and drafter see (its `starts_B` and `temperatures_B` mean nothing), `records`
    the same tokens one record a row, without hidden states. `first_BT` is where each position's record
    begins; record i is in row `row_D[i]` from `offset_D[i]` on."""

    rows: Features
    records: Features
    first_BT: Tensor
    temperatures_BT: Tensor
    row_D: Tensor
    offset_D: Tensor


@torch.no_grad()
def extract_packed(
    target: Target,
    rows: Sequence[Sequence[Record]],
    max_tokens: int | None = None,
    layers: tuple[int, ...] = (),
) -> Packed:
    """One prefill over rows of records, each cut off behind `max_tokens` tokens and in one row.

    Rows longer than the target's context are fine: positions restart with every record.
    """
    device = target.device
    limit = target.config.max_position_embeddings
    limit = limit if max_tokens is None else min(limit, max_tokens)
    texts = [[[*record.prompt_ids, *record.output_ids][:limit] for record in row] for row in rows]
    lengths = [[len(text) for text in row] for row in texts]
    longest = max(sum(row) for row in lengths)
    offsets = [[sum(row[:index]) for index in range(len(row))] for row in lengths]
    tokens = torch.zeros(len(rows), longest, dtype=torch.int64)
    first = torch.arange(longest).repeat(len(rows), 1)
    temperatures = torch.zeros(len(rows), longest)
    flat = [
        (row, offset, text, record)
        for row, (starts, parts) in enumerate(zip(offsets, texts, strict=True))
        for offset, text, record in zip(starts, parts, rows[row], strict=True)
    ]
    widest = max(len(text) for _, _, text, _ in flat)
    for row, offset, text, record in flat:
        end = offset + len(text)
        tokens[row, offset:end] = torch.tensor(text)
        first[row, offset:end] = offset
        temperatures[row, offset:end] = record.temperature
    tokens_BT, first_BT = tokens.to(device), first.to(device)
    lengths_B = torch.tensor([sum(row) for row in lengths], device=device)
    wide_BTX = target.prefill_hidden(tokens_BT, lengths_B, layers, first_BT)
    size = target.config.hidden_size
    none_B = torch.zeros_like(lengths_B)
    packed = Features(
        tokens_BT=tokens_BT,
        starts_B=none_B,
        lengths_B=lengths_B,
        temperatures_B=none_B,
        hidden_BTF=wide_BTX[..., :size] if layers else wide_BTX,
        wide_BTX=wide_BTX if layers else None,
    )
    records = Features(
        tokens_BT=torch.tensor([text + [0] * (widest - len(text)) for _, _, text, _ in flat], device=device),
        starts_B=torch.tensor([len(record.prompt_ids) for *_, record in flat], device=device),
        lengths_B=torch.tensor([len(text) for _, _, text, _ in flat], device=device),
        temperatures_B=torch.tensor([record.temperature for *_, record in flat], device=device),
        hidden_BTF=wide_BTX.new_empty(0),
    )
    row_D = torch.tensor([row for row, *_ in flat], device=device)
    offset_D = torch.tensor([offset for _, offset, *_ in flat], device=device)
    return Packed(packed, records, first_BT, temperatures.to(device), row_D, offset_D)


def fitted_rows(records: Sequence[Record], max_tokens: int) -> list[list[Record]]:
    """Records in as few rows as the longest of them is wide, longest first (first fit)."""
    rows: list[list[Record]] = []
    left: list[int] = []
    lengths = [min(max_tokens, len(record.prompt_ids) + len(record.output_ids)) for record in records]
    width = max(lengths, default=0)
    for index in sorted(range(len(records)), key=lambda i: -lengths[i]):
        row = next((i for i, room in enumerate(left) if room >= lengths[index]), None)
        if row is None:
            row = len(rows)
            rows.append([])
            left.append(width)
        rows[row].append(records[index])
        left[row] -= lengths[index]
    return rows


def pack_anchors(anchors: Anchors, packed: Packed) -> Anchors:
    """Anchors of single records (`sample_anchors` on `packed.records`) as anchors of the packed rows.

    Those without a label are dropped; rows with fewer than others are filled up with anchors of weight 0.
    """
    real_DA = anchors.weights_BAK[..., 0] > 0
    document_N, column_N = real_DA.nonzero(as_tuple=True)
    row_N = packed.row_D[document_N]
    rows = packed.rows.tokens_BT.shape[0]
    counts_B = torch.bincount(row_N, minlength=rows)
    # Records are numbered row by row, so that anchors of a row are neighbours.
    place_N = torch.arange(len(row_N), device=row_N.device) - (counts_B.cumsum(0) - counts_B)[row_N]
    most = max(1, int(counts_B.max()))

    def placed(values_DAX: Tensor) -> Tensor:
        out = values_DAX.new_zeros(rows, most, *values_DAX.shape[2:])
        out[row_N, place_N] = values_DAX[document_N, column_N]
        return out

    total_BK = anchors.total_BK.new_zeros(rows, anchors.total_BK.shape[1])
    last_T = packed.rows.tokens_BT.shape[1] - 1
    return Anchors(
        positions_BA=placed(anchors.positions_BA + packed.offset_D.view(-1, 1)),
        labels_BAK=placed(anchors.labels_BAK),
        parents_BAK=placed(anchors.parents_BAK),
        teachers_BAK=placed(anchors.teachers_BAK + packed.offset_D.view(-1, 1, 1)).clamp(max=last_T),
        weights_BAK=placed(anchors.weights_BAK),
        total_BK=total_BK.index_add(0, packed.row_D, anchors.total_BK),
    )
