"""The calibrated values of drafted trees as plain lists.

Shapes: S sequences, N nodes of each.
"""

from __future__ import annotations

import math

from online_draft.decoding.drafting.forest import DraftedTrees
from online_draft.decoding.policy.calibration import Calibration

_FEW = 64
"""So many nodes are gone through one by one: behind a step numpy's many small calls take longer."""
_LOWEST = -60.0


def path_values(calibration: Calibration, trees: DraftedTrees) -> list[list[float]]:
    """Path probability of every node, 0 where there is none; what `Calibration.values` says."""
    parts = trees.logprob_SN, trees.parent_SN, trees.depth_SN
    if trees.logprob_SN.size > _FEW:
        whole: list[list[float]] = calibration.values(*parts, trees.ranked_S).tolist()
        return whole
    table_LG = calibration.table()
    last = table_LG.shape[1] - 1
    entry, exp = table_LG.item, math.exp
    found = []
    for row, (logps, parents, depths) in enumerate(zip(*(part.tolist() for part in parts), strict=True)):
        ranked = trees.ranked_S is not None and trees.ranked_S[row]
        above = calibration.depths - 1 if ranked else -1
        values: list[float] = []
        for logp, parent, depth in zip(logps, parents, depths, strict=True):
            if logp <= _LOWEST:
                values.append(0.0)
                continue
            before = 0.0 if parent < 0 else logps[parent]
            place = min(last, int(exp(0.5 * (logp - before)) * last))
            value = entry(depth + above, place)
            values.append(value if parent < 0 else value * values[parent])
        found.append(values)
    return found
