"""The block-table interface: what an engine hands to a target for one step.

Shapes: N rows of the flat batch, S sequences of a group, R rows of each, L context entries.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(slots=True)
class AttentionGroup:
    """Sequences that attend together. Flat rows start .. start + S * R - 1, sequence after sequence.

    A context entry is a KV slot, this step's own rows included (their K/V are written before attention).
    Every row must attend to at least one entry. Groups of a batch don't overlap and cover all its rows.
    """

    start: int
    sequences: int
    rows_per_sequence: int
    kv_slots_SL: Tensor
    """int64 [S, L]: slot of each context entry; entries beyond a sequence's context are 0 and masked."""
    mask_SRL: Tensor | None
    """bool [S, R, L]: True = may attend. None = every row attends to every entry (plain decoding)."""
    contiguous_start: int | None = None
    """For S = 1: first slot when `kv_slots_SL` is a run of ascending neighbours; saves the gather. Optional:
    on the CPU the target finds out by itself, on other devices that would cost a synchronisation."""


@dataclass(slots=True)
class RowBatch:
    """One flat batch of rows: prompt chunks, roots and tree nodes alike. All tensors int64 [N]."""

    token_ids_N: Tensor
    position_ids_N: Tensor
    slots_N: Tensor
    """Where each row's K/V go; distinct within a batch."""
    groups: list[AttentionGroup] = field(default_factory=list)
