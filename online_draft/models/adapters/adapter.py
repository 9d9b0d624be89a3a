"""One adapter: low-rank changes to a drafter's linear layers, and the card that says whose they are.

Shapes: I inputs, O outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from online_draft.errors import ArtifactError

if TYPE_CHECKING:
    from online_draft.models.drafter import Drafter


@dataclass(frozen=True, slots=True)
class Site:
    """Where an adapter can change a drafter: `groups` linear layers of one shape that run side by side.

    A single layer has the site's name in a file, the layers of several are `name.0`, `name.1`, ...
    """

    groups: int
    ins: int
    outs: int


@dataclass(frozen=True, slots=True)
class LowRank:
    """A change `up @ down` of one layer's weight [O, I]: `down` is [R, I], `up` [O, R] and scaled already."""

    down_RI: Tensor
    up_OR: Tensor


@dataclass(frozen=True, slots=True)
class AdapterCard:
    """What an adapter is for: a segment, and exactly one base drafter.

    `base_digest` is `artifact.base_digest` of the base, `base_version` its name for people. `evaluation`
    and `provenance` are any JSON.
    """

    segment: str
    kind: str
    target: str
    base_digest: str
    base_version: str = ""
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def rebased(self, digest: str, version: str, evaluation: Mapping[str, Any]) -> AdapterCard:
        """The card of the same weights, admitted on another base."""
        return replace(self, base_digest=digest, base_version=version, evaluation=evaluation)


@dataclass(frozen=True, slots=True)
class Adapter:
    """Weights by layer name, all of the same rank, and the card."""

    card: AdapterCard
    rank: int
    weights: Mapping[str, LowRank]

    def check(self, drafter: Drafter) -> None:
        """ArtifactError when a layer or a shape isn't the drafter's. Says nothing about its base."""
        if self.card.kind != drafter.kind:
            raise ArtifactError(f"the adapter is for {self.card.kind} heads, these are {drafter.kind}")
        known = layers(drafter.adapter_sites())
        for name, weight in self.weights.items():
            if name not in known:
                raise ArtifactError(f"{drafter.kind} has no layer {name!r} that an adapter can change")
            expected = (self.rank, known[name][0]), (known[name][1], self.rank)
            found = tuple(weight.down_RI.shape), tuple(weight.up_OR.shape)
            if found != expected:
                raise ArtifactError(f"{name}: A and B have shapes {found}, the drafter needs {expected}")


def layers(sites: Mapping[str, Site]) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of every single layer by its name in a file."""
    return {
        name if site.groups == 1 else f"{name}.{group}": (site.ins, site.outs)
        for name, site in sites.items()
        for group in range(site.groups)
    }
