"""Which records a training batch is drawn from: shares of the sources, and a cap on each tenant's."""

from __future__ import annotations

from collections.abc import Mapping

Cell = tuple[str, str]
"""Segment and tenant."""

_MOST = 4.0
"""Nobody is drawn more than this often as uniform draws would: a tenant's few records aren't worn out so that
another, whose traffic is nearly all there is, stays below the cap."""


def cap_tenants(weights: Mapping[Cell, float], cap: float) -> dict[Cell, float]:
    """Weights that sum to 1, in which a tenant has `cap` at most as far as others can take the rest.

    Others take it in proportion to their room, up to the cap and 4 times their own share.
    """
    total = sum(weights.values())
    natural: dict[str, float] = {}
    for (_segment, tenant), weight in weights.items():
        natural[tenant] = natural.get(tenant, 0.0) + weight / total
    excess = sum(max(0.0, share - cap) for share in natural.values())
    room = {
        tenant: max(0.0, min(cap, _MOST * share) - share) for tenant, share in natural.items() if share <= cap
    }
    moved = min(excess, sum(room.values()))
    factor = {}
    for tenant, share in natural.items():
        if moved <= 0 or not share:
            change = 0.0
        elif share > cap:
            change = -moved * (share - cap) / excess
        else:
            change = moved * room[tenant] / sum(room.values())
        factor[tenant] = 1 + change / share if share else 1.0
    return {cell: weight / total * factor[cell[1]] for cell, weight in weights.items()}
