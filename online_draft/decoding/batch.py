"""From a step plan to the flat batch of rows.

Row order: the trees (R rows each, root first), the plain roots, the prompt chunks. Logits are needed for
all rows of the first two and for the last row of chunks that end in the root.

Shapes: S sequences of a group, R rows of each, L context entries, N rows in all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from online_draft.decoding.drafting.tree import DraftTrees
from online_draft.decoding.plan import PrefillChunk, StepPlan
from online_draft.decoding.sequence import Sequence
from online_draft.models.rows import AttentionGroup, RowBatch


class SlotTable:
    """Block tables as one tensor: KV slot of each position of each running sequence."""

    def __init__(self, max_sequences: int, max_tokens: int, device: torch.device) -> None:
        self.table = torch.zeros(max_sequences, max_tokens, dtype=torch.int64, device=device)

    def extend(self, sequence: Sequence, start: int) -> None:
        """Enter a running sequence's slots from position `start` on."""
        slots = sequence.kv_slots[start : self.table.shape[1]]
        self.table[sequence.slot, start : start + len(slots)] = torch.tensor(slots, device=self.table.device)

    def check_integrity(self, sequence: Sequence) -> None:
        """Assert that a running sequence's row is up to date."""
        slots = sequence.kv_slots[: self.table.shape[1]]
        assert self.table[sequence.slot, : len(slots)].tolist() == slots, "a block table is out of date"


@dataclass(frozen=True, slots=True)
class StepBatch:
    """The rows of a step and which of them give logits (None: all of them do)."""

    rows: RowBatch
    logit_rows: Tensor | None
    chunk_starts: list[int]


def build_batch(plan: StepPlan, trees: DraftTrees | None, table: SlotTable, max_position: int) -> StepBatch:
    """Lay out one step. `trees` belongs to `plan.speculating`, in that order; None when that is empty."""
    device = table.table.device
    tokens: list[Tensor] = []
    positions: list[Tensor] = []
    slots: list[Tensor] = []
    groups: list[AttentionGroup] = []
    start = 0
    if trees is not None:
        root_S = torch.tensor([s.tokens[-1] for s in plan.speculating], device=device)
        depth_SR = torch.nn.functional.pad(trees.depth_SN, (1, 0))
        group, length_S1, own_SR = _group(plan.speculating, trees.nodes + 1, start, table, trees.ancestors())
        tokens.append(torch.cat((root_S.unsqueeze(1), trees.token_SN), dim=1).flatten())
        positions.append((length_S1 + depth_SR).clamp_(max=max_position).flatten())
        slots.append(own_SR.flatten())
        groups.append(group)
        start += own_SR.numel()
    if plan.plain:
        group, length_S1, own_SR = _group(plan.plain, 1, start, table, None)
        tokens.append(torch.tensor([s.tokens[-1] for s in plan.plain], device=device))
        positions.append(length_S1.flatten())
        slots.append(own_SR.flatten())
        groups.append(group)
        start += len(plan.plain)
    logit_rows = list(range(start))
    chunk_starts = []
    for chunk in plan.chunks:
        end = chunk.start + chunk.count
        tokens.append(torch.tensor(chunk.sequence.tokens[chunk.start : end], device=device))
        positions.append(torch.arange(chunk.start, end, device=device))
        slots.append(table.table[chunk.sequence.slot, chunk.start : end])
        groups.append(_chunk_group(chunk, start, table))
        chunk_starts.append(start)
        start += chunk.count
        if chunk.last:
            logit_rows.append(start - 1)
    rows = RowBatch(_join(tokens), _join(positions), _join(slots), groups)
    return StepBatch(rows, _index(logit_rows, device) if plan.chunks else None, chunk_starts)


def _index(rows: list[int], device: torch.device) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64, device=device)


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _group(
    sequences: list[Sequence], rows: int, start: int, table: SlotTable, sees_SRR: Tensor | None
) -> tuple[AttentionGroup, Tensor, Tensor]:
    """A group of decoding sequences: the group, lengths [S, 1], and the rows' own slots [S, R].

    `sees_SRR` says which of a sequence's own rows a row attends to (None: itself only, R = 1).
    """
    device = table.table.device
    lengths = [s.length for s in sequences]
    context = max(lengths) + rows
    if len(sequences) == 1:
        slot, length = sequences[0].slot, lengths[0]
        kv_slots_SL = table.table[slot : slot + 1, :context]
        length_S1 = torch.full((1, 1), length, device=device)
        mask_SRL = None
        if sees_SRR is not None:
            mask_SRL = torch.ones(1, rows, context, dtype=torch.bool, device=device)
            mask_SRL[:, :, length:] = sees_SRR
        group = AttentionGroup(start, 1, rows, kv_slots_SL, mask_SRL)
        return group, length_S1, kv_slots_SL[:, length:]
    length_S1 = torch.tensor(lengths, device=device).unsqueeze(1)
    kv_slots_SL = table.table[torch.tensor([s.slot for s in sequences], device=device), :context]
    own_SR = length_S1 + torch.arange(rows, device=device)
    offset_SL = torch.arange(context, device=device) - length_S1
    if sees_SRR is None:
        mask_SRL = (offset_SL <= 0).unsqueeze(1)
    else:
        own_SL = (offset_SL >= 0) & (offset_SL < rows)
        index_SRL = offset_SL.clamp(0, rows - 1).unsqueeze(1).expand(-1, rows, -1)
        mask_SRL = (offset_SL < 0).unsqueeze(1) | (own_SL.unsqueeze(1) & sees_SRR.gather(2, index_SRL))
    group = AttentionGroup(start, len(sequences), rows, kv_slots_SL, mask_SRL)
    return group, length_S1, kv_slots_SL.gather(1, own_SR)


def _chunk_group(chunk: PrefillChunk, start: int, table: SlotTable) -> AttentionGroup:
    """A prompt chunk: causal over everything before it."""
    end = chunk.start + chunk.count
    slot = chunk.sequence.slot
    columns_L = torch.arange(end, device=table.table.device)
    mask_SRL = (columns_L <= columns_L[chunk.start :].unsqueeze(1)).unsqueeze(0)
    return AttentionGroup(start, 1, chunk.count, table.table[slot : slot + 1, :end], mask_SRL)
