"""The speculation policy: how many nodes each step verifies over the whole batch, zero included.

Shapes: S sequences, N nodes drafted for each, J counts of nodes per sequence (0 … N), C counts of nodes over
the batch (0 … S·N).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from online_draft.decoding.drafting.selection import Selection, best_count, keep, rank
from online_draft.decoding.policy.bursts import Bursts
from online_draft.decoding.policy.cost import CostModel
from online_draft.decoding.policy.decision import Decision
from online_draft.decoding.policy.gain_curve import GainCurve
from online_draft.decoding.policy.probing import AWAY, ProbeBudget
from online_draft.decoding.policy.realised import Realised

SpeculationMode = Literal["auto", "always", "off"]

_MARGIN = 0.02
"""Hysteresis: drafting starts above 1 + margin times the plain rate and ends below 1 - margin times it."""
_PROBE_NODES = 4
_PROBE_SEQUENCES = 8
"""One of so many sequences drafts in a probe, at least one: the others lose nothing but the time."""
_FOLLOWED = 32
"""One of so many sequences is followed while drafting is far from worth it."""
_NEAR = 0.95
"""Above this share of the plain rate drafting is tried for some steps, as often as it can be paid for."""
_TRIAL = 32
_HOPELESS = 0.85
"""Below this share drafting ends at once, without `_LEAST_RUN` steps."""
_SETTLED = 8.0
"""Steps that the curve must stand on before speculation may be turned off."""
_LEAST_RUN = 8
_COLD = 4
"""The first drafted steps of all warm the machine up: what they take says nothing."""
_MANY, _SAMPLE = 200, 4
"""Behind so many drafted steps every fourth tells what steps cost."""
_IDLE = 16
"""Plain steps of which one is looked at while nothing is drafted, times the back-off: to look is a seventh of
a small target's step."""


class SpeculationPolicy:
    """Maximises committed tokens per second, from calibrated node values and the cost model.

    Once per step, in this order: `plan` (who drafts?), after drafting `select` (which nodes), `observe` (what
    came of it). The advantage over plain steps that values and costs promise is corrected by the advantage
    that drafted steps really had. Finding out may lose half a percent of the time: probes while speculation
    is off, and a wrong decision to turn it on, are paid from that; while it is on, a few plain steps now and
    then keep the comparison honest. Mode "always" verifies all that is drafted, "off" never drafts.
    """

    def __init__(self, cost: CostModel, nodes: int, mode: SpeculationMode = "auto") -> None:
        self.cost = cost
        self.nodes = nodes
        self.mode = mode
        self.last = Decision()
        self.planned_nodes = 0
        """Nodes over the batch that the last `plan` thought best, before the step's own values were known."""
        self._curve = GainCurve(nodes)
        self._gained = self._promised = 0.0
        self._known_cost_C: list[float] | None = None
        self._known_best = (0, 0.0)
        self._rate: float | None = None
        self._plain_rate = 1.0
        self._advantage = 1.0
        self._realised = Realised()
        self._on = True
        self._eligible = self._decided = 0
        self._prompt_rows = 0
        self._arrivals = 0
        self._idle = 0
        self._drafted = 0
        self._run = 0
        self._plain_run = 0
        self._unseen = 0
        self._measuring = False
        self._cold = False
        self._trial_left = 0
        self._unproven = False
        self._bursts = Bursts()
        self._budget = ProbeBudget()
        self._buckets: Counter[int] = Counter()

    @property
    def expected_nodes(self) -> int:
        """Nodes over the batch that the next step will probably verify."""
        return self.last.nodes if self.mode == "auto" else self.planned_nodes

    @property
    def dormant(self) -> bool:
        """Whether nothing is drafted, and that is far from worth it, as a probe of this drafter has shown."""
        found = not self._on and self._budget.backoff > 1.0
        return found and self.mode == "auto" and self._advantage * self._realised.share < _NEAR

    def follows(self) -> bool:
        """Whether to keep what drafting for a sequence needs. Ask once for each that is new, and for all when
        the policy gets dormant: then only some are followed, for probes, and the others cost what they cost
        without a drafter.
        """
        self._arrivals += 1
        return not self.dormant or self._arrivals % _FOLLOWED == 0

    def plan(self, sequences: int, others: int = 0, arrived: bool = False) -> int:
        """For how many of `sequences` this step should draft, beside `others` that never do.

        `arrived`: a sequence is new since the last step. Prompt rows don't count here.
        """
        self._eligible = sequences
        if arrived:
            self._budget.want()
        if not 2 * self._decided <= 3 * sequences <= 4.5 * self._decided:
            self._decided, self._idle = sequences, 0
            self._budget.want()
        rows = sequences + others
        count, probe = 0, False
        self._measuring = False
        if self.mode == "auto" and sequences and self.nodes:
            if self._idle:
                self._idle -= 1
            else:
                count, probe = self._decide(sequences, others)
        elif self.mode == "always" and self.nodes:
            count = sequences
            self.planned_nodes = sequences * self.nodes
        last = self.last
        if count or last.sequences or last.free or last.others != rows:
            self.last = Decision(count, rows - count, 0, float(rows), probe)
        return count

    def rate(self) -> float | None:
        """Tokens per second of the step just planned; None where it must go as planned, to find out."""
        last = self.last
        if not last.sequences:
            return None if self._measuring else last.others / self.cost.plain(last.others)
        known = self._curve.weight >= _SETTLED and self._rate is not None and not last.probe
        return self._rate * self._realised.share if known and self._rate is not None else None

    def give_way(self, nodes: int, expected: float) -> None:
        """The step just planned verifies `nodes` nodes that came for nothing instead, and runs no head."""
        last = self.last
        self.last = Decision(0, last.sequences + last.others, nodes, expected, free=True)

    def select(
        self,
        values: Sequence[Sequence[float]],
        parents: Sequence[Sequence[int]],
        prompt_rows: int = 0,
        limit: int | None = None,
    ) -> Selection:
        """The nodes to verify, by calibrated path probability (0: not a node) over the whole batch.

        Both by sequence and node. Parents must come before their children and be worth no less; the selection
        is then closed under "parent of". A sequence may get no nodes. `prompt_rows` are rows of prompt chunks
        in the same step, `limit` the nodes that it has room for.
        """
        self._prompt_rows = prompt_rows
        order_X, worth_C = rank(values)
        usable = len(worth_C) - 1
        if limit is not None:
            usable = max(0, min(usable, limit))
        total = usable
        if self.mode == "auto":
            last = self.last
            most = max(usable, len(values) * self.nodes)
            cost_C = self.cost.speculative(last.sequences, last.others + prompt_rows, most + 1)
            usable_C = worth_C[: usable + 1]
            rate = self._rate
            if rate is None:
                rows = last.sequences + last.others
                rate = max((rows + worth) / cost for worth, cost in zip(usable_C, cost_C, strict=False))
            total = best_count(usable_C, cost_C, rate)
            if last.probe or self._unproven:
                total = max(total, min(usable, _PROBE_NODES * last.sequences))
        self._chose(worth_C, total)
        return keep(order_X, total, parents)

    def rests(self, arrived: bool) -> bool:
        """Whether the next step is plain without `plan` and `observe`: then `passed` ends it.

        `arrived`: a sequence is new since the last step. Nothing may be drafted, due to be tried or timed.
        """
        last = self.last
        if last.nodes or last.sequences or self.mode != "auto" or self._unseen >= self._gap - 1:
            return False
        if not self._eligible:
            return not arrived
        if self._on or not self._idle:
            return False
        self._idle -= 1
        if arrived:
            self._budget.want()
        return True

    def passed(self, seconds: float) -> None:
        """A plain step about which nothing had to be decided took so long."""
        self._buckets[0] += 1
        self._plain_run += 1
        self._unseen += 1
        self._budget.earn(seconds)

    def observe(self, seconds: float, committed: int, typical: bool = True) -> None:
        """What the planned step took, and the tokens of the walks of its sequences and others, uncut.

        `typical` is False for steps that also did something else: prompt chunks, a compilation, a swap.
        """
        last = self.last
        rows = last.sequences + last.others
        if not rows:
            return
        self._buckets[last.nodes] += 1
        if last.free:
            self._cold = True
            return
        self._budget.earn(seconds)
        if not last.sequences:
            self._plain_run += 1
            self._unseen += 1
            comparing = self._on and self._eligible
            seen = self._bursts.counts(self._plain_run) if comparing else self._unseen >= self._gap
            cold, self._cold = self._cold, False
            if typical and seen and not cold and self.mode == "auto":
                self._unseen = 0
                self.cost.observe(rows, 0, False, seconds)
                self._bursts.timed(self.cost.drift)
            if not self._on:
                return
            self._bursts.plain()
        else:
            self._observe_drafted(seconds, committed, typical)
        self._budget.bound()

    def _observe_drafted(self, seconds: float, committed: int, typical: bool) -> None:
        last = self.last
        rows = last.sequences + last.others
        self._gained += committed - rows
        self._promised += last.expected - rows
        self._drafted += 1
        if self._drafted > _COLD:
            worth = committed / self._plain_rate
            if typical:
                known = self._drafted > _MANY and self._drafted % _SAMPLE
                if self._plain_run < AWAY and not known:
                    self.cost.observe(rows + last.nodes, last.sequences, True, seconds)
                if not last.probe:
                    self._realised.observe(seconds, worth, self._advantage)
            prompt_seconds = self.cost.plain(rows + self._prompt_rows) - self.cost.plain(rows)
            self._budget.lose(seconds - prompt_seconds - worth)
        if last.probe:
            self._budget.step()
        self._run += 1
        self._bursts.drafted()
        self._plain_run = 0

    def drafter_changed(self) -> None:
        """Another drafter drafts from the next step on: what is known of the old one counts little. While
        nothing is drafted, a trial of the new one is next."""
        self._curve.doubt()
        self._unproven = not self._on
        self._realised = Realised()
        self._idle = 0
        self._plain_run = max(self._plain_run, AWAY)
        self._budget.renew()

    def report(self) -> dict[str, Any]:
        """Counts since the start: `buckets` total nodes -> steps, `probes`; and the `yield`: tokens gained
        per token promised by the calibrated values, None before any drafting."""
        buckets = {str(nodes): self._buckets[nodes] for nodes in sorted(self._buckets)}
        promised = self._promised
        fulfilled = round(self._gained / promised, 3) if promised else None
        return {"buckets": buckets, "probes": self._budget.probes, "yield": fulfilled}

    def _decide(self, sequences: int, others: int) -> tuple[int, bool]:
        """(how many draft, as a probe) for mode "auto"."""
        rows = sequences + others
        plain_seconds = self.cost.plain(rows)
        self._plain_rate = rows / plain_seconds
        self._budget.price(plain_seconds)
        if not self._curve.weight:
            self.planned_nodes = sequences * self.nodes
            return sequences, False
        cost_C = self.cost.speculative(sequences, others, sequences * self.nodes + 1)
        if cost_C is not self._known_cost_C:
            # While nothing is drafted the curve stands still, and costs rarely move.
            rate_J = self._curve.rates(sequences, rows, cost_C[::sequences])
            rate = max(rate_J)
            self._known_cost_C, self._known_best = cost_C, (rate_J.index(rate), rate)
        best, rate = self._known_best
        self.planned_nodes = sequences * best
        self._rate = max(rate, self._plain_rate)
        self._advantage = rate / self._plain_rate
        advantage = self._advantage * self._realised.share
        if self._on:
            return (sequences if self._goes_on(advantage) else 0), False
        if self._unproven:
            self._budget.grant_trial()
        pays = advantage > 1.0 + _MARGIN and not self._budget.owed
        near = advantage > _NEAR and self._budget.affords_trial
        if pays or near or self._unproven:
            self._on = True
            self._trial_left = _TRIAL if self._unproven or not pays else 0
            self._run = 0
            self._budget.end()
            self._bursts.renew()
            return sequences, False
        if self._probe():
            count = max(1, sequences // _PROBE_SEQUENCES)
            self.planned_nodes = count * best
            return count, True
        self._idle = self._gap - 1
        return 0, False

    @property
    def _gap(self) -> int:
        """Plain steps of which one is looked at."""
        return _IDLE if self._on else int(_IDLE * self._budget.backoff)

    def _goes_on(self, advantage: float) -> bool:
        """Whether to draft in a step while speculation is on."""
        if self._bursts.goes_on():
            self._measuring = True
            return False
        if self._trial_left:
            self._trial_left = 0 if self._budget.spent else self._trial_left - 1
            self._unproven &= self._trial_left > 0
        elif self._curve.weight >= _SETTLED:
            least = 1.0 - _MARGIN if self._run >= _LEAST_RUN else _HOPELESS
            if advantage < least:
                self._on = False
                return False
        self._measuring = self._bursts.begins(advantage, self.cost.drift)
        return not self._measuring

    def _probe(self) -> bool:
        """Whether to draft although it doesn't seem to pay."""
        if self._budget.probing:
            return True
        begins = self._budget.begin(self._plain_run)
        if begins:
            self._realised.forget()
        return begins

    def _chose(self, worth_C: Sequence[float], total: int) -> None:
        """Enter a step's values into the curve and its choice into the decision."""
        last = self.last
        self._known_cost_C = None
        self._curve.learn(worth_C, last.sequences, last.sequences / max(1, self._eligible), self._plain_run)
        expected = last.expected + worth_C[total]
        self.last = Decision(last.sequences, last.others, total, expected, last.probe)
