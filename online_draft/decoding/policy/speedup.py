"""What decoding took, and what plain decoding of the same tokens would have: an estimate of the speedup."""

from __future__ import annotations


class Speedup:
    """Sums over steps that only decoded. Plain decoding's part is by the measured cost of a plain step: of
    steps with a draft its model's (`CostModel.plain`) for as many tokens, of plain steps what they took."""

    def __init__(self) -> None:
        self._spent_s = self._plain_s = 0.0

    def plain(self, seconds: float) -> None:
        """A plain step."""
        self._spent_s += seconds
        self._plain_s += seconds

    def drafted(self, seconds: float, plain_seconds: float) -> None:
        """A step that drafted, and what its tokens would have taken plainly."""
        self._spent_s += seconds
        self._plain_s += plain_seconds

    def counts(self) -> dict[str, int]:
        """Microseconds: `spent_us`, and `plain_us` for the same tokens."""
        return {"spent_us": round(1e6 * self._spent_s), "plain_us": round(1e6 * self._plain_s)}
