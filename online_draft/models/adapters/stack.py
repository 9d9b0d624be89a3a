"""Adapters in one batch: stacked weights, gathered by place.

Shapes: P places, G layers of a site, R rank, I inputs, O outputs, S sequences, M rows of each, N = S * M
(with G > 1 the rows of a sequence are its layers: M = G).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from online_draft.errors import ArtifactError

if TYPE_CHECKING:
    from online_draft.models.adapters.adapter import Adapter, Site


class AdapterStack:
    """Room for `places` adapters of at most `rank` beside place 0, which is zero: no adapter.

    Ranks are filled up with zeros. Tensors never move: what reads them by address may go on doing so.
    `put` and `clear` are for between two drafts.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        places: int,
        rank: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        self.sites = dict(sites)
        self.rank = rank

        def zeros(site: Site, size: int) -> Tensor:
            return torch.zeros(places + 1, site.groups, rank, size, dtype=dtype, device=device)

        self.down_PGRI = {name: zeros(site, site.ins) for name, site in sites.items()}
        self.up_PGRO = {name: zeros(site, site.outs) for name, site in sites.items()}

    def put(self, place: int, adapter: Adapter) -> None:
        """Fill a place. ArtifactError, and nothing is changed, when the rank is too large."""
        if adapter.rank > self.rank:
            raise ArtifactError(f"the adapter's rank {adapter.rank} is above engine.adapter_rank {self.rank}")
        self.clear(place)
        rank = adapter.rank
        for name, site in self.sites.items():
            for group in range(site.groups):
                weight = adapter.weights.get(name if site.groups == 1 else f"{name}.{group}")
                if weight is not None:
                    self.down_PGRI[name][place, group, :rank].copy_(weight.down_RI)
                    self.up_PGRO[name][place, group, :rank].copy_(weight.up_OR.t())

    def clear(self, place: int) -> None:
        """Make a place zero. Idempotent."""
        assert place > 0, "place 0 is no adapter"
        for tensors in (self.down_PGRI, self.up_PGRO):
            for tensor in tensors.values():
                tensor[place].zero_()

    def changes(self, places: Sequence[int]) -> Changes | None:
        """What these sequences' adapters change, or None when none of them has one."""
        return Changes(self, places) if any(places) else None


class Changes:
    """The low-rank part of one call, for sequences in the order of its rows."""

    def __init__(self, stack: AdapterStack, places: Sequence[int]) -> None:
        self._stack = stack
        self._place_S = torch.tensor(places, device=next(iter(stack.up_PGRO.values())).device)

    def add(self, site: str, made_NO: Tensor, rows_NI: Tensor) -> None:
        """Add the site's change on `rows_NI` to `made_NO`, in place."""
        down_BRI = self._stack.down_PGRI[site].index_select(0, self._place_S).flatten(0, 1)
        up_BRO = self._stack.up_PGRO[site].index_select(0, self._place_S).flatten(0, 1)
        rows_BMI = rows_NI.reshape(down_BRI.shape[0], -1, rows_NI.shape[-1])
        change_BMO = torch.bmm(torch.bmm(rows_BMI, down_BRI.transpose(1, 2)), up_BRO)
        made_NO.add_(change_BMO.view(made_NO.shape))
