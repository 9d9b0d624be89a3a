"""Speculation between a step's plan and its target call: whether to draft, and which nodes to verify.

Shapes: S sequences, N nodes of each, C counts of nodes over the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from online_draft.decoding.drafting.arms import Arms
from online_draft.decoding.drafting.candidates import Candidates, drafted, merged, proposed
from online_draft.decoding.drafting.drafts import Drafts
from online_draft.decoding.drafting.forest import Forest
from online_draft.decoding.drafting.handover import Handover
from online_draft.decoding.drafting.ngrams import NgramDrafts, Proposal
from online_draft.decoding.drafting.selection import Selection, keep, rank
from online_draft.decoding.masks import drop_forbidden
from online_draft.decoding.plan import StepPlan
from online_draft.decoding.policy.ngram_policy import NgramPolicy
from online_draft.decoding.policy.speculation import SpeculationPolicy
from online_draft.decoding.policy.speedup import Speedup
from online_draft.decoding.runners.base import Runner
from online_draft.decoding.sequence import Sequence
from online_draft.decoding.timer import StepTimer
from online_draft.decoding.verification import Walk

_LEAST_DRAFTED = 6
_SETTLED, _SAMPLE = 200, 4
"""The heads' calibration sees so many drafted steps, then every fourth."""
_LEAST_MATCH = 3
"""Tokens that must have stood there before for the n-gram memory to speak: shorter matches seldom pay."""


Of = list[int] | range


@dataclass(slots=True)
class _Drafted:
    """What the heads drafted in this step, `of` these of the step's trees; what was selected of all."""

    drafts: Drafts
    of: Of
    selection: Selection


class Drafting:
    """Asks the policy, has the runner draft and the n-gram memory propose, keeps what the policy selects, and
    learns from the outcome.

    A step runs the heads (proposals join their trees), or verifies proposals alone, or nothing. Without
    `ngrams` there are no proposals; `arms` say whose heads. With `noise_ranked`, the trees of sampled
    sequences follow their noise.
    """

    def __init__(
        self,
        policy: SpeculationPolicy,
        nodes: int,
        width: int,
        arms: Arms,
        ngrams: NgramDrafts | None = None,
        noise_ranked: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.policy = policy
        self._noise_ranked = noise_ranked
        self._nodes = nodes
        self._width = width
        self._arms = arms
        self._ngrams = ngrams if policy.mode != "off" and nodes else None
        self._ngram_policy = NgramPolicy(policy.cost)
        self._clock = clock
        self._drafted = 0
        self._resting = self._dormant = False
        self._flags: list[bool] | None = None
        self._looked = 0.0
        """Seconds of the step's looks at the memory of which nothing came: no part of its price."""
        self._last: _Drafted | None = None
        self._handover = Handover()
        self._handing_over = False
        self._speedup = Speedup()

    @property
    def ran_heads(self) -> bool:
        """Whether the last step drafted with heads."""
        return self._last is not None

    def changed(self, arms: Arms, strange: Iterable[Sequence] = ()) -> None:
        """These draft from now on; `strange` are running sequences that their new drafter doesn't know."""
        former, self._arms = self._arms, arms
        if not set(arms.present) <= set(former.present):
            self._drafted = 0
        if arms.champion is not former.champion:
            self.policy.drafter_changed()
        if self.policy.last.sequences or self.policy.last.free:
            self._handover.add(strange)

    def draft(
        self, plan: StepPlan, runner: Runner, ready: Callable[[], None], timer: StepTimer | None = None
    ) -> Forest | None:
        """The nodes to verify for `plan.speculating`; None if there are none. Calls `ready` before drafting.

        Sequences that are not to draft in this step are moved to `plan.plain`.
        """
        self._last = self._flags = None
        self._looked = 0.0
        sequences = plan.speculating
        looks = self._ngrams is not None and self._ngram_policy.looks() and self._ngrams.due(sequences)
        self._handing_over = bool(self._handover)
        self._resting = not (looks or self._handing_over) and self.policy.rests(bool(plan.admitted))
        if self._resting:
            _decode_plainly(plan, [])
            return None
        able = [sequence for sequence in sequences if sequence.followed] if self._arms.champion.heads else []
        if self._handing_over:
            able = self._handover.step(able, runner, ready)
        rows = len(sequences) + len(plan.plain)
        count = self.policy.plan(len(able), rows - len(able), bool(plan.admitted))
        dormant = self.policy.dormant
        if dormant and not self._dormant:
            for sequence in able:
                sequence.followed = self.policy.follows()
        self._dormant = dormant
        nodes = min(self._most(count), plan.node_budget // count) if count else 0
        proposals: dict[int, Proposal] = {}
        if self._ngrams is not None and sequences and plan.node_budget:
            proposals, forest = self._consult(self._ngrams, plan, count if nodes else 0)
            if forest is not None:
                return forest
        if not nodes:
            _decode_plainly(plan, [])
            return None
        ready()
        if timer is not None:
            timer.mark("policy")
        drafting = able[len(able) - count :]
        drafts = self._heads(runner, drafting, nodes)
        if timer is not None:
            timer.mark("draft")
        candidates = drafted(drafts.trees, drafts.values)
        of: Of = range(count)
        if proposals:
            candidates, of = self._merge(plan, drafting, candidates, proposals)
        else:
            _decode_plainly(plan, drafting)
        allowed = drop_forbidden(candidates, [sequence.mask for sequence in plan.speculating])
        if allowed is not candidates:
            before_SN, after_SN = (
                np.array([values[row][: drafts.trees.nodes] for row in of])
                for values in (candidates.values, allowed.values)
            )
            drafts.trees = drafts.trees.without(before_SN > after_SN)
        prompt_rows = sum([chunk.count for chunk in plan.chunks])
        selection = self.policy.select(allowed.values, allowed.parents, prompt_rows, plan.node_budget)
        self._last = _Drafted(drafts, of, selection)
        if not selection.total:
            _decode_plainly(plan, [])
            return None
        return self._kept(plan, allowed, selection)

    def observe(self, walks: list[Walk], plain: int, seconds: float, typical: bool) -> None:
        """What came of the step: walks of the sequences with trees, how many others decoded, and its time.

        `typical` is False for steps that also did something else than decoding.
        """
        if self._resting:
            if typical:
                self._speedup.plain(seconds)
            self.policy.passed(seconds)
            self._ngram_policy.passed(seconds, plain if typical else 0)
            return
        last = self._last
        committed = plain + sum(len(walk.tokens) for walk in walks)
        rows = plain + len(walks)
        if typical and rows and self.policy.mode == "auto":
            self._compare(seconds, committed, rows, bool(walks) or last is not None)
        typical = typical and not self._handing_over
        seconds -= self._looked
        if last is not None and len(walks) == len(last.selection.kept):
            self._drafted += 1
            if self._drafted < _SETTLED or self._drafted % _SAMPLE == 0:
                self._learn(last, walks)
        if self.policy.last.free and self.policy.mode == "auto":
            self._ngram_policy.observe(seconds, committed, typical)
        else:
            if last is not None and self._flags is not None:
                self._ngram_policy.gained(self._accepted(last, walks), plain + len(walks))
            self._ngram_policy.passed(seconds, plain if typical and not walks else 0)
        self.policy.observe(seconds, committed, typical)

    def counts(self) -> dict[str, Any]:
        """Integers since this policy began: the speedup's (`Speedup.counts`; 0 where no times are measured);
        `sources` of drafts, the champion's `heads` and `ngram`, with what was promised and what came
        (`Deciles.counts`)."""
        sources = {}
        if self._arms.champion.heads:
            sources["heads"] = self._arms.champion.calibration.deciles.counts()
        if self._ngrams is not None:
            sources["ngram"] = self._ngrams.deciles.counts()
        return {**self._speedup.counts(), "sources": sources}

    def report(self) -> dict[str, Any]:
        """`calibration` (predicted and observed acceptance by depth) of the champion and the policy's report;
        with a second drafter, `second`: its version and calibration; with an n-gram memory, `ngram`: what it
        was asked and found, and the steps that ran no head."""
        second = self._arms.second
        report = {"calibration": self._arms.champion.calibration.report(), **self.policy.report()}
        if second is not None:
            report["second"] = {"version": second.version, "calibration": second.calibration.report()}
        if self._ngrams is not None:
            report["ngram"] = {**self._ngrams.report(), "alone": self._ngram_policy.report()}
        return report

    def _compare(self, seconds: float, committed: int, rows: int, drafted: bool) -> None:
        """Enter a step of so many rows that only decoded."""
        if drafted:
            self._speedup.drafted(seconds, self.policy.cost.plain(rows) * committed / rows)
        else:
            self._speedup.plain(seconds)

    def _consult(
        self, ngrams: NgramDrafts, plan: StepPlan, drafting: int
    ) -> tuple[dict[int, Proposal], Forest | None]:
        """What the memory proposes for this step, and the step with that alone where it pays; `drafting`
        sequences would run the heads. Nothing where the step has to go as planned, to find out."""
        auto = self.policy.mode == "auto"
        if auto and self.policy.last.probe:
            return {}, None
        looks = self._ngram_policy.looks() if auto else None
        if looks == 0:
            return {}, None
        began = self._clock()
        nodes = min(self._nodes, plan.node_budget)
        proposals, looked = ngrams.look(plan.speculating, nodes, _LEAST_MATCH, looks)
        forest = self._propose(plan, proposals, drafting) if proposals else None
        if auto and looked and forest is None:
            self._looked = self._clock() - began
            self._ngram_policy.looked(looked, self._looked)
        return proposals, forest

    def _propose(self, plan: StepPlan, proposals: dict[int, Proposal], drafting: int) -> Forest | None:
        """The step with proposals alone, where that pays; `drafting` sequences would run the heads."""
        policy = self.policy
        if policy.mode == "auto":
            rate = policy.rate()
            if rate is None:
                return None
        elif drafting:
            return None
        rows = len(plan.speculating) + len(plan.plain)
        masks = [plan.speculating[row].mask for row in proposals]
        candidates = drop_forbidden(proposed(proposals), masks)
        order_X, worth_C = rank(candidates.values)
        total = min(len(worth_C) - 1, plan.node_budget)
        if policy.mode == "auto":
            assert rate is not None
            prompt_rows = sum([chunk.count for chunk in plan.chunks])
            most = self._nodes * len(plan.speculating)
            total = self._ngram_policy.choose(
                worth_C[: total + 1], most, rows, prompt_rows, rate, drafting > 0
            )
        if not total:
            return None
        policy.give_way(total, rows + worth_C[total])
        _decode_plainly(plan, [plan.speculating[row] for row in proposals])
        return self._kept(plan, candidates, keep(order_X, total, candidates.parents))

    def _merge(
        self,
        plan: StepPlan,
        drafting: list[Sequence],
        trees: Candidates,
        proposals: dict[int, Proposal],
    ) -> tuple[Candidates, Of]:
        """Trees of the heads and proposals in one, and which of the step's trees the heads drafted for."""
        known = {id(sequence) for sequence in drafting}
        taking = [i for i, s in enumerate(plan.speculating) if id(s) in known or i in proposals]
        place = {index: row for row, index in enumerate(taking)}
        of = [place[i] for i, s in enumerate(plan.speculating) if id(s) in known]
        found = {place[index]: proposal for index, proposal in proposals.items()}
        _decode_plainly(plan, [plan.speculating[index] for index in taking])
        return merged(trees, of, found, len(taking), self._nodes), of

    def _kept(self, plan: StepPlan, candidates: Candidates, selection: Selection) -> Forest:
        """The selected nodes; the memory is told whose proposals are among them."""
        forest = candidates.keep(selection)
        self._flags = forest.ngram
        if forest.ngram is not None:
            assert self._ngrams is not None
            heads = candidates.heads
            trees = zip(plan.speculating, selection.kept, strict=True)
            self._ngrams.used(sequence for sequence, nodes in trees if nodes and nodes[-1] >= heads)
        return forest

    def _accepted(self, last: _Drafted, walks: list[Walk]) -> int:
        """Tokens of a step's walks that only the memory had proposed."""
        assert self._flags is not None
        start = tokens = 0
        for walk, nodes in zip(walks, last.selection.kept, strict=True):
            tokens += sum([self._flags[start + node] for node in walk.nodes])
            start += len(nodes)
        return tokens

    def _heads(self, runner: Runner, sequences: list[Sequence], nodes: int) -> Drafts:
        """What the heads draft for these sequences."""
        width = min(self._width, max(4, nodes // 2))
        if self._arms.alone:
            return Drafts.of(self._arms.champion, runner, sequences, nodes, width, self._noise_ranked)
        return Drafts.by_arm(runner, sequences, nodes, width, self._noise_ranked)

    def _learn(self, last: _Drafted, walks: list[Walk]) -> None:
        """Tell the heads' calibration what became of their trees, as far as the walks stayed in them."""
        nodes = last.selection.as_drafted([walk.nodes for walk in walks])
        heads = last.drafts.trees.nodes
        found = []
        for row in last.of:
            own = nodes[row]
            stayed = next((at for at, node in enumerate(own) if node >= heads), len(own))
            found.append((walks[row].tokens[: stayed + 1], own[:stayed]))
        last.drafts.learn(found)

    def _most(self, sequences: int) -> int:
        """Nodes per sequence worth drafting: about twice as many as were last worth verifying."""
        if self.policy.mode != "auto":
            return self._nodes
        return min(self._nodes, max(_LEAST_DRAFTED, 2 * -(-self.policy.planned_nodes // sequences)))


def _decode_plainly(plan: StepPlan, trees: list[Sequence]) -> None:
    """Leave only the given sequences, in their order, with trees."""
    if not trees:
        plan.plain = plan.speculating + plan.plain
        plan.speculating = trees
        return
    if len(trees) < len(plan.speculating):
        kept = {id(sequence) for sequence in trees}
        plan.plain = [s for s in plan.speculating if id(s) not in kept] + plan.plain
        plan.speculating = trees
