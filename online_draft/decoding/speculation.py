"""The speculation policy: how many nodes each step verifies over the whole batch, zero included.

Shapes: S sequences, N nodes drafted for each, J counts of nodes per sequence (0 … N), C counts of nodes over
the batch (0 … S·N). Host side, numpy.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from online_draft.decoding.cost import CostModel
from online_draft.decoding.selection import Selection, keep, rank

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SpeculationMode = Literal["auto", "always", "off"]

_MARGIN = 0.02
"""Hysteresis: drafting starts above 1 + margin times the plain rate and ends below 1 - margin times it."""
_PROBE_SHARE = 0.01
_PROBE_STEPS = 3
_PROBE_NODES = 4
_MAX_BACKOFF = 8.0
_PROBE_GAP = 16
"""Plain steps between two probes at least. Behind so many, a drafted step isn't typical: the drafter's state
is rebuilt."""
_TRIAL = 32
"""Drafted steps after which it counts as right that speculation was turned on."""
_SETTLED = 8.0
"""Steps that the curve must stand on before speculation may be turned off."""
_MEMORY = 48.0
_COLD = 4
"""The first drafted steps of all warm the machine up: what they take says nothing."""
_STALE = 32.0
"""Plain steps after which the curve is trusted half as much."""
_PLAIN_INTERVALS = (64, 512)
"""Drafted steps between two plain ones, which keep the plain cost honest: near break-even, far from it."""
_STRAYED = 0.1
"""Where costs have moved this far (log) since the last plain step, it is time for one."""
_NEAR = 0.95
"""Above this share of the plain rate a few tens of drafted steps cost next to nothing and tell more than a
probe."""
_NEAR_GAP = 64
_LEAST_RUN = 8


@dataclass(frozen=True, slots=True)
class Decision:
    """What a step was decided to be. `expected` tokens it should give; `probe`: drafted only to find out."""

    sequences: int = 0
    others: int = 0
    drafted: bool = False
    nodes: int = 0
    expected: float = 0.0
    probe: bool = False


class SpeculationPolicy:
    """Maximises committed tokens per second, from calibrated node values and the cost model.

    Once per step, in this order: `plan` (draft at all?), after drafting `select` (which nodes), `observe`
    (what came of it). While speculation is off, up to 1 % of the time goes into probes, less by back-off
    where they find nothing; while it is on, a plain step now and then keeps the comparison honest. Mode
    "always" verifies all that is drafted, "off" never drafts.
    """

    def __init__(self, cost: CostModel, nodes: int, mode: SpeculationMode = "auto") -> None:
        self.cost = cost
        self.nodes = nodes
        self.mode = mode
        self.last = Decision()
        self.planned_nodes = 0
        """Nodes over the batch that the last `plan` thought best, before the step's own values were known."""
        self._gain_J = np.zeros(nodes + 1)
        self._counts_J = np.arange(nodes + 1)
        self._gain_weight = 0.0
        self._gained = self._promised = 0.0
        self._on = True
        self._run = 0
        self._trusted = True
        self._plain_run = 0
        self._known_cost_C: Floats | None = None
        self._known_best = (0, 0.0)
        self._drafted = 0
        self._since_plain = 0
        self._plain_interval = _PLAIN_INTERVALS[0]
        self._plain_drift = 0.0
        self._probe_left = 0
        self._probe_seconds = 0.0
        self._wanted = False
        self._credit = 0.0
        self._backoff = 1.0
        self._rate: float | None = None
        self._plain_rate = 1.0
        self._buckets: Counter[int] = Counter()
        self._probes = 0

    @property
    def expected_nodes(self) -> int:
        """Nodes over the batch that the next step will probably verify."""
        return self.last.nodes if self.mode == "auto" else self.planned_nodes

    def plan(self, sequences: int, others: int = 0, arrived: bool = False) -> bool:
        """Whether this step should draft for `sequences`, beside `others` that decode without a tree.

        `arrived`: a sequence is new since the last step. Prompt rows don't count here.
        """
        if arrived or sequences != self.last.sequences:
            self._wanted = True
        draft = probe = False
        if self.mode == "auto" and sequences and self.nodes:
            draft, probe = self._decide(sequences, others)
        elif self.mode == "always":
            self.planned_nodes = sequences * self.nodes
            draft = self.planned_nodes > 0
        self.last = Decision(sequences, others, draft, 0, float(sequences + others), probe)
        return draft

    def select(
        self, value_SN: Floats, parent_SN: Ints, prompt_rows: int = 0, limit: int | None = None
    ) -> Selection:
        """The nodes to verify, by calibrated path probability (0: not a node) over the whole batch.

        Parents must come before their children and be worth no less; the selection is then closed under
        "parent of". A sequence may get no nodes. `prompt_rows` are rows of prompt chunks in the same step,
        `limit` the nodes that it has room for.
        """
        order_X, worth_C, usable = rank(value_SN)
        if limit is not None:
            usable = max(0, min(usable, limit))
        total = usable
        if self.mode == "auto":
            last = self.last
            cost_C = self.cost.speculative(last.sequences, last.others + prompt_rows, len(worth_C))
            if self._rate is None:
                score_C = (worth_C + (last.sequences + last.others)) / cost_C
            else:
                score_C = worth_C - cost_C * self._rate
            total = int(score_C[: usable + 1].argmax())
            if last.probe:
                total = max(total, min(usable, _PROBE_NODES * last.sequences))
        self._chose(worth_C, total)
        return keep(order_X, total, parent_SN)

    def observe(self, seconds: float, committed: int, typical: bool = True) -> None:
        """What the planned step took, and the tokens of the walks of its sequences and others, uncut.

        `typical` is False for steps that also did something else: prompt chunks, a compilation, a swap.
        """
        last = self.last
        rows = last.sequences + last.others
        if not rows:
            return
        self._buckets[last.nodes] += 1
        self._credit += _PROBE_SHARE * seconds
        if last.drafted:
            self._gained += committed - rows
            self._promised += last.expected - rows
            self._drafted += 1
            if typical and self._plain_run < _PROBE_GAP and self._drafted > _COLD:
                self.cost.observe(rows + last.nodes, last.sequences, True, seconds)
            self._run += 1
            self._since_plain += 1
            self._plain_run = 0
            if last.probe:
                self._probe_left -= 1
                self._credit -= seconds
            elif not self._trusted:
                self._credit -= max(0.0, seconds - committed / self._plain_rate)
                if self._run >= _TRIAL:
                    self._trusted = True
                    self._backoff = 1.0
        else:
            if typical:
                if not self._plain_run:
                    # Right behind a drafted step caches are cold: it can't show that plain is slow.
                    seconds = min(seconds, self.cost.plain(rows))
                self.cost.observe(rows, 0, False, seconds)
            self._plain_drift = self.cost.drift
            self._since_plain = 0
            self._plain_run += 1
        if self._probe_seconds:
            self._credit = min(self._credit, _MAX_BACKOFF * self._probe_seconds)

    def drafter_changed(self) -> None:
        """Another drafter drafts from the next step on: what is known of the old one counts little."""
        self._gain_weight = min(self._gain_weight, 2.0)
        self._backoff = 1.0
        self._wanted = True
        self._plain_run = max(self._plain_run, _PROBE_GAP)
        self._credit = max(self._credit, self._probe_seconds)

    def report(self) -> dict[str, Any]:
        """Counts since the start: `buckets` total nodes -> steps, `probes`; and the `yield`: tokens gained
        per token promised by the calibrated values, None before any drafting."""
        buckets = {str(nodes): self._buckets[nodes] for nodes in sorted(self._buckets)}
        promised = self._promised
        fulfilled = round(self._gained / promised, 3) if promised else None
        return {"buckets": buckets, "probes": self._probes, "yield": fulfilled}

    def _decide(self, sequences: int, others: int) -> tuple[bool, bool]:
        """(draft, as a probe) for mode "auto"."""
        rows = sequences + others
        self._plain_rate = rows / self.cost.plain(rows)
        if not self._gain_weight:
            self.planned_nodes = sequences * self.nodes
            return True, False
        cost_C = self.cost.speculative(sequences, others, sequences * self.nodes + 1)
        if cost_C is not self._known_cost_C:
            # While nothing is drafted the curve stands still, and costs rarely move.
            rate_J = (self._gain_J * sequences + rows) / cost_C[::sequences]
            best = int(rate_J.argmax())
            self._known_cost_C, self._known_best = cost_C, (best, float(rate_J[best]))
        best, rate = self._known_best
        self.planned_nodes = sequences * best
        self._rate = max(rate, self._plain_rate)
        advantage = rate / self._plain_rate
        if self._on:
            settled = self._gain_weight >= _SETTLED and self._run >= _LEAST_RUN
            if advantage < 1.0 - _MARGIN and settled:
                self._on = self._trusted = False
                return False, False
            strayed = abs(self.cost.drift - self._plain_drift) > _STRAYED and self._since_plain >= _PROBE_GAP
            if strayed or self._since_plain >= self._plain_interval:
                near, far = _PLAIN_INTERVALS
                self._plain_interval = min(far, 2 * self._plain_interval) if advantage > 1.2 else near
                return False, False
            return True, False
        near = advantage > _NEAR and self._plain_run >= _NEAR_GAP and self._credit > 0
        if advantage > 1.0 + _MARGIN or near:
            self._on = True
            self._run = self._probe_left = 0
            self._plain_interval = _PLAIN_INTERVALS[0]
            return True, False
        draft = self._probe(float(cost_C[sequences * min(_PROBE_NODES, self.nodes)]))
        return draft, draft

    def _probe(self, step_seconds: float) -> bool:
        """Whether to draft although it doesn't seem to pay."""
        if self._probe_left > 0:
            return True
        self._probe_seconds = _PROBE_STEPS * step_seconds
        needed = self._probe_seconds * (1.0 if self._wanted else self._backoff)
        if self._plain_run < _PROBE_GAP or self._credit < needed:
            return False
        self._probe_left = _PROBE_STEPS
        self._probes += 1
        self._backoff = min(_MAX_BACKOFF, 2.0 * self._backoff)
        self._wanted = False
        return True

    def _chose(self, worth_C: Floats, total: int) -> None:
        """Enter a step's values into the curve and its choice into the decision."""
        last = self.last
        self._known_cost_C = None
        place_J = np.minimum(self._counts_J * last.sequences, len(worth_C) - 1)
        weight = self._gain_weight * _STALE / (_STALE + self._plain_run)
        self._gain_J += (worth_C.take(place_J) / last.sequences - self._gain_J) / (1.0 + weight)
        self._gain_weight = min(_MEMORY, weight + 1.0)
        expected = last.expected + float(worth_C[total])
        self.last = Decision(last.sequences, last.others, True, total, expected, last.probe)
