"""Where the time of a step goes."""

from __future__ import annotations

from typing import Protocol


class StepTimer(Protocol):
    """What `Engine.timer` needs: `mark(part)` is called where a part of a step ends.

    The parts: schedule, policy (with a draft twice: before and after it), draft (trees included), forward
    (layout and logits included), choose, commit, deliver.
    """

    def mark(self, part: str) -> None: ...
