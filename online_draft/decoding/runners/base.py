"""What the engine needs of whatever runs its steps.

Shapes: S sequences, N rows of the flat batch, M rows with logits, F hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Sequences
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from online_draft.decoding.batch import SlotTable
from online_draft.decoding.drafting.forest import DraftedTrees, Forest
from online_draft.decoding.plan import StepPlan
from online_draft.decoding.sequence import Sequence
from online_draft.models.drafter import Drafter, DraftState
from online_draft.models.kv import KVCache
from online_draft.models.ring import FeatureRing

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Sample = Callable[[int, float, int], int]
"""(logit row, temperature, noise key) -> token: one choice without a batch."""


@dataclass(slots=True)
class Rows:
    """A step's results and where each part's rows are.

    Tree i's root is row `tree_starts[i]`, its nodes follow; then come the plain roots from `plain_start` on
    (for all of them a row is also its logits' row), then prompt chunks, whose `chunk_starts` are rows. The
    logits of chunks that end in the root follow those of the plain roots.
    """

    hidden_NF: Tensor
    logits_MV: Tensor
    tree_starts: list[int]
    plain_start: int
    chunk_starts: list[int]
    best_M: list[int] | None = None
    """The largest logit's token of each row, where that cost nothing extra."""
    sample: Sample | None = None
    greedy_M: Tensor | None = None
    """`best_M` where it is on the device and not read yet."""
    reused: bool = False
    """Whether the next step writes over these tensors."""


@dataclass(slots=True)
class Moves:
    """What a step leaves behind: accepted KV rows to move together, hidden rows for the feature ring.

    `sources` and `destinations` are KV slots. `rows` are rows of the step, sequence after sequence, `counts`
    how many of them go to each of `slots`; `tokens` followed them. `skips`: how many rows of a slot came
    before these and are too old to keep.
    """

    sources: list[int] = field(default_factory=list)
    destinations: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    skips: dict[int, int] = field(default_factory=dict)


class Runner(Protocol):
    """Runs steps on one device. Owns nothing but scratch: cache, ring and slot table are the engine's."""

    def stage(self, drafter: Drafter, state: DraftState) -> None:
        """Get ready what `set_drafters` would have to do for this one. From any thread."""
        ...

    def set_drafters(self, drafters: Sequences[tuple[Drafter, DraftState]]) -> None:
        """Only these draft from the next call on, each with its weights as they were when its state first
        came here."""
        ...

    @property
    def batches_freely(self) -> bool:
        """Whether a drafter's memory of many sequences is made in about the time of one."""
        ...

    def follow(self, state: DraftState, slots: Sequences[int]) -> None:
        """Bring the drafter's memory of these slots up to the ring; nothing is drafted."""
        ...

    def draft(
        self,
        state: DraftState,
        sequences: list[Sequence],
        nodes: int,
        width: int,
        trust_D: Floats | None = None,
    ) -> DraftedTrees:
        """One tree of at most `nodes` nodes per sequence by the drafter whose state this is, at most `width`
        of a depth followed; with `trust_D`, those of sampled sequences ranked by their noise
        (`NoiseRanking`)."""
        ...

    def run(self, plan: StepPlan, forest: Forest | None) -> Rows:
        """One target step; `forest` belongs to `plan.speculating`. Writes the rows' K/V into their slots."""
        ...

    def logits(self, hidden_NF: Tensor) -> Tensor:
        """The LM head on a step's hidden rows: [N, F] -> [N, V]."""
        ...

    def apply(self, moves: Moves, rows: Rows) -> None:
        """Compact the cache and feed the ring."""
        ...

    def feed(self, place_M: Ints, hidden_NF: Tensor, row_M: Ints, token_M: Ints) -> None:
        """Write `hidden_NF[row_M]` and the tokens behind them to claimed places of the ring."""
        ...


@dataclass(frozen=True, slots=True)
class Memory:
    """The tensors that runners of one engine share."""

    kv: KVCache
    ring: FeatureRing
    slots: SlotTable
