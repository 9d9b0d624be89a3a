"""Speculation between a step's plan and its target call: whether to draft, and which nodes to verify.

Shapes: S sequences, N nodes drafted for each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from online_draft.decoding.calibration import Calibration
from online_draft.decoding.forest import DraftedTrees, Forest
from online_draft.decoding.masks import drop_forbidden
from online_draft.decoding.plan import StepPlan
from online_draft.decoding.runners.base import Runner
from online_draft.decoding.selection import Selection
from online_draft.decoding.speculation import SpeculationPolicy
from online_draft.decoding.timer import StepTimer
from online_draft.decoding.verification import Walk

_LEAST_DRAFTED = 6


@dataclass(slots=True)
class _Drafted:
    trees: DraftedTrees
    selection: Selection


class Drafting:
    """Asks the policy, has the runner draft, keeps what the policy selects, and learns from the outcome."""

    def __init__(self, policy: SpeculationPolicy, nodes: int, width: int, heads: int) -> None:
        self.policy = policy
        self._nodes = nodes
        self._width = width
        self._heads = heads
        self._calibration = Calibration(heads)
        self._last: _Drafted | None = None

    def changed(self, heads: int) -> None:
        """Another drafter drafts from now on."""
        if heads == self._heads:
            self._calibration.forget()
        else:
            self._heads = heads
            self._calibration = Calibration(heads)
        self.policy.drafter_changed()

    def draft(
        self, plan: StepPlan, runner: Runner, ready: Callable[[], None], timer: StepTimer | None = None
    ) -> Forest | None:
        """The nodes to verify for `plan.speculating`; None if there are none. Calls `ready` before drafting.

        Sequences that are not to draft in this step are moved to `plan.plain`.
        """
        self._last = None
        count = self.policy.plan(len(plan.speculating), len(plan.plain), bool(plan.admitted))
        nodes = min(self._most(count), plan.node_budget // count) if count else 0
        _decode_plainly(plan, len(plan.speculating) - (count if nodes else 0))
        if not nodes:
            return None
        ready()
        if timer is not None:
            timer.mark("policy")
        drafted = runner.draft(plan.speculating, nodes, min(self._width, max(4, nodes // 2)))
        if timer is not None:
            timer.mark("draft")
        trees = drop_forbidden(drafted, [sequence.mask for sequence in plan.speculating])
        value_SN = self._calibration.values(trees.logprob_SN, trees.parent_SN, trees.depth_SN)
        prompt_rows = sum(chunk.count for chunk in plan.chunks)
        selection = self.policy.select(value_SN, trees.parent_SN, prompt_rows, plan.node_budget)
        self._last = _Drafted(trees, selection)
        forest = trees.keep(selection)
        if not forest.total:
            _decode_plainly(plan, count)
            return None
        return forest

    def _most(self, sequences: int) -> int:
        """Nodes per sequence worth drafting: about twice as many as were last worth verifying."""
        if self.policy.mode != "auto":
            return self._nodes
        return min(self._nodes, max(_LEAST_DRAFTED, 2 * -(-self.policy.planned_nodes // sequences)))

    def observe(self, walks: list[Walk], plain: int, seconds: float, typical: bool) -> None:
        """What came of the step: walks of the sequences that drafted, how many others decoded, and its time.

        `typical` is False for steps that also did something else than decoding.
        """
        last = self._last
        if last is not None and len(walks) == len(last.selection.counts):
            nodes = last.selection.as_drafted([walk.nodes for walk in walks])
            found = [(walk.tokens, kept) for walk, kept in zip(walks, nodes, strict=True)]
            trees = last.trees
            self._calibration.observe(
                trees.token_SN, trees.parent_SN, trees.depth_SN, trees.logprob_SN, found
            )
        committed = plain + sum(len(walk.tokens) for walk in walks)
        self.policy.observe(seconds, committed, typical)

    def report(self) -> dict[str, Any]:
        """`calibration` (predicted and observed acceptance by depth) and the policy's report."""
        return {"calibration": self._calibration.report(), **self.policy.report()}


def _decode_plainly(plan: StepPlan, count: int) -> None:
    """Move the oldest `count` sequences from those with trees to those without."""
    if count:
        plan.plain = plan.speculating[:count] + plan.plain
        plan.speculating = plan.speculating[count:]
