"""What a step was decided to be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Decision:
    """`sequences` draft, `others` don't. `expected` tokens it should give; `probe`: drafted only to find out;
    `free`: verifies nodes for which no head was run."""

    sequences: int = 0
    others: int = 0
    nodes: int = 0
    expected: float = 0.0
    probe: bool = False
    free: bool = False

    @property
    def drafted(self) -> bool:
        """Whether anything was drafted."""
        return self.sequences > 0
