"""What the n-gram memory proposes: a small tree, with what speaks for each of its nodes.

Shapes: M nodes.
"""

from __future__ import annotations

from typing import NamedTuple

REQUEST, TENANT = 0, 1
"""Where a match was found: in the request itself, in its tenant's earlier outputs."""
MOST_MATCHED = 31
MOST_SUPPORT = 15
WHOLE = 64
"""Shares are counted in 64ths."""
MATCH_BIT, SOURCE_BIT, SUPPORT_BIT = 12, 11, 7
"""Where the parts of an evidence begin; the share is lowest."""


class NgramTree(NamedTuple):
    """Parents come before children; children of a node are distinct. All are lists, [M]: a look at the memory
    calls no numpy, which takes longer than the look itself.

    `token_M`; `parent_M`, an index in the tree, -1 is the root; `depth_M`, 1 below the root; `evidence_M`,
    which the properties take apart.
    """

    token_M: list[int]
    parent_M: list[int]
    depth_M: list[int]
    evidence_M: list[int]

    @property
    def nodes(self) -> int:
        """M."""
        return len(self.token_M)

    @property
    def match_M(self) -> list[int]:
        """Length of the longest match that proposed the node."""
        return [evidence >> MATCH_BIT for evidence in self.evidence_M]

    @property
    def source_M(self) -> list[int]:
        """Where that match was found: REQUEST or TENANT."""
        return [evidence >> SOURCE_BIT & 1 for evidence in self.evidence_M]

    @property
    def support_M(self) -> list[int]:
        """How many of the occurrences looked at run through the node."""
        return [evidence >> SUPPORT_BIT & MOST_SUPPORT for evidence in self.evidence_M]

    @property
    def share_M(self) -> list[float]:
        """Their part of the occurrences that run through the parent, where longer matches weigh more."""
        return [(evidence & (1 << SUPPORT_BIT) - 1) / WHOLE for evidence in self.evidence_M]
