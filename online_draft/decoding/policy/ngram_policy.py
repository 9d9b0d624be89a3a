"""Whether a step verifies what the n-gram memory proposes, without running a head.

Shapes: C counts of nodes over the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from online_draft.decoding.drafting.selection import best_count
from online_draft.decoding.policy.cost import CostModel
from online_draft.decoding.policy.realised import Realised

_MARGIN, _MARGIN_HEADS = 0.03, 0.15
"""Proposals must promise so much more than a plain step, or one with heads, which do better than they do on
average where a text repeats itself."""
_SHARE = 0.005
"""Of the time, what proposals may lose that are tried although such steps gave less than they promised."""
_AFTERMATH_RATE = 0.1
_LOOKS_SHARE = 0.005
"""Of the time, what looking may take as long as nothing comes of it."""
_MERGED_WORTH = 0.25
"""What a token of a proposal in the heads' trees earns, in tokens: heads might have had it too."""
_LOOKS_CREDIT, _LOOKS_DEBT = 16.0, 400.0
"""In plain steps. A look may be dear: it enters what was written since the last one."""
_MOST_CREDIT = 4.0
"""In plain steps; what may be owed, too."""


class NgramPolicy:
    """Proposals cost nothing, so each step can decide by what it really has: tokens promised against time.

    As in `SpeculationPolicy`, the promise is corrected by what such steps really gave. What the plain step
    behind one takes longer than others, with its caches cold, is part of its price.
    """

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost
        self._realised = Realised()
        self._credit = 0.0
        self._rate = 0.0
        self._rows = self._nodes = 0
        self._advantage = 1.0
        self._behind = False
        self._aftermath = self._extra = 0.0
        self._looks_credit = _LOOKS_CREDIT * cost.plain(1)
        self._look_seconds = 0.0
        self._steps = self._tokens = 0

    def looks(self) -> int:
        """How many sequences may be looked up in this step: what that takes is earned by what it has gained,
        or stays a small part of the time."""
        if self._looks_credit <= 0:
            return 0
        return 1 + int(self._looks_credit / (4.0 * self._look_seconds)) if self._look_seconds else 1

    def looked(self, looks: int, seconds: float) -> None:
        """So many looks took so long and gave nothing that is verified now."""
        self._look_seconds += 0.1 * (seconds / looks - self._look_seconds)
        self._earn(-seconds)

    def gained(self, tokens: int, rows: int) -> None:
        """Proposals in the heads' trees gave tokens to a step of `rows` sequences."""
        self._earn(_MERGED_WORTH * tokens * self._cost.plain(rows) / rows)

    def choose(
        self,
        worth_C: Sequence[float],
        most: int,
        rows: int,
        prompt_rows: int,
        rate: float,
        heads: bool = False,
    ) -> int:
        """How many of the best nodes to verify, worth `worth_C` together; 0 if that doesn't pay.

        `rows` sequences decode beside `prompt_rows` prompt rows; `rate` is the tokens per second of the step
        that these nodes would take the place of, which runs `heads` or not. There are never more than `most`
        nodes.
        """
        cost = self._cost
        cost_C = cost.speculative(0, rows + prompt_rows, most + 1)
        total = best_count(worth_C, cost_C, rate)
        self._extra = 0.0 if self._behind else self._aftermath
        seconds = cost_C[total] + self._extra
        if prompt_rows:
            seconds -= cost.plain(rows + prompt_rows) - cost.plain(rows)
        advantage = (rows + worth_C[total]) / (seconds * rate)
        least = 1.0 + (_MARGIN_HEADS if heads else _MARGIN)
        if not total or advantage <= least:
            return 0
        if advantage * self._realised.share <= least and self._credit <= 0:
            return 0
        self._rate, self._advantage, self._rows, self._nodes = rate, advantage, rows, total
        return total

    def observe(self, seconds: float, committed: int, typical: bool) -> None:
        """What the step took that `choose` chose last, and the tokens that it gave."""
        self._steps += 1
        self._tokens += committed
        self._behind = True
        worth = committed / self._rate
        if typical:
            self._cost.observe(self._rows + self._nodes, 0, True, seconds)
            seconds += self._extra
            self._realised.observe(seconds, worth, self._advantage)
            self._passed(worth - seconds)
            self._earn(worth - seconds)

    def passed(self, seconds: float, plain: int) -> None:
        """Another step took so long, a part of which may be lost. `plain`: how many sequences decoded in it,
        0 if it was no plain step."""
        self._passed(_SHARE * seconds)
        self._earn(_LOOKS_SHARE * seconds)
        if self._behind and plain:
            usual = self._cost.plain(plain)
            excess = max(0.0, min(seconds - usual, usual))
            self._aftermath += _AFTERMATH_RATE * (excess - self._aftermath)
        self._behind = False

    def report(self) -> dict[str, Any]:
        """Steps that ran no head, tokens that they gave, and the share of the promised advantage."""
        return {"steps": self._steps, "tokens": self._tokens, "share": round(self._realised.share, 3)}

    def _earn(self, seconds: float) -> None:
        step = self._cost.plain(1)
        self._looks_credit = max(-_LOOKS_DEBT * step, min(_LOOKS_CREDIT * step, self._looks_credit + seconds))

    def _passed(self, seconds: float) -> None:
        most = _MOST_CREDIT * self._cost.plain(1)
        self._credit = max(-most, min(most, self._credit + seconds))
