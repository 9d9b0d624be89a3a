"""What the heads of a step's arms drafted: one call for each arm that has a sequence in the batch."""

from __future__ import annotations

from dataclasses import dataclass

from online_draft.decoding.drafting.arms import Arm
from online_draft.decoding.drafting.forest import DraftedTrees
from online_draft.decoding.runners.base import Runner
from online_draft.decoding.sequence import Sequence
from online_draft.decoding.values import path_values

Rows = list[int] | None
"""Which trees of a batch; None: all of them."""


@dataclass(slots=True)
class Drafts:
    """One tree for each of the sequences, in their order, the values of its nodes, and who drafted which."""

    trees: DraftedTrees
    values: list[list[float]]
    parts: list[tuple[Arm, Rows]]

    @classmethod
    def of(
        cls, arm: Arm, runner: Runner, sequences: list[Sequence], nodes: int, width: int, noise_ranked: bool
    ) -> Drafts:
        """All sequences are this arm's. `nodes` and `width` as in `Runner.draft`."""
        assert arm.state is not None
        calibration = arm.calibration
        trees = runner.draft(
            arm.state, sequences, nodes, width, calibration.trust_D if noise_ranked else None
        )
        return cls(trees, path_values(calibration, trees), [(arm, None)])

    @classmethod
    def by_arm(
        cls, runner: Runner, sequences: list[Sequence], nodes: int, width: int, noise_ranked: bool
    ) -> Drafts:
        """Each sequence is its own arm's."""
        rows_of: dict[Arm, list[int]] = {}
        for row, sequence in enumerate(sequences):
            assert sequence.arm is not None
            rows_of.setdefault(sequence.arm, []).append(row)
        found = {
            arm: cls.of(arm, runner, [sequences[row] for row in rows], nodes, width, noise_ranked)
            for arm, rows in rows_of.items()
        }
        if len(found) == 1:
            return next(iter(found.values()))
        trees = DraftedTrees.joined([(found[arm].trees, rows) for arm, rows in rows_of.items()])
        values: list[list[float]] = [[]] * len(sequences)
        for arm, rows in rows_of.items():
            missing = [0.0] * (trees.nodes - found[arm].trees.nodes)
            for row, own in zip(rows, found[arm].values, strict=True):
                values[row] = own + missing
        return cls(trees, values, list(rows_of.items()))

    def learn(self, walks: list[tuple[list[int], list[int]]]) -> None:
        """Tell every arm's calibration what became of its own trees: each tree's walk, tokens and nodes."""
        for arm, rows in self.parts:
            trees = self.trees if rows is None else self.trees.take(rows)
            arm.calibration.observe(
                trees.token_SN,
                trees.parent_SN,
                trees.depth_SN,
                trees.logprob_SN,
                walks if rows is None else [walks[row] for row in rows],
                trees.share_SN,
                trees.ranked_S,
            )
