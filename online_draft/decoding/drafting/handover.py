"""Running sequences that got another drafter, and wait until it knows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from online_draft.decoding.drafting.arms import Arm
from online_draft.decoding.runners.base import Runner
from online_draft.decoding.sequence import Sequence

_A_STEP = 4
"""One of so many sequences is handed over in a step: for 64 rows of one stage, a quarter of a plain step."""


class Handover:
    """Spreads over steps what a swap makes necessary: the new drafter's memory of each running sequence has
    to be made from the feature ring. Until that is done, and in the step that does it, a sequence decodes
    plainly, so the step that a swap delays has fewer rows to verify.

    Where a whole batch takes hardly longer than one sequence, as on CUDA, nothing is spread.
    """

    def __init__(self) -> None:
        self._waiting: set[Sequence] = set()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, sequences: Iterable[Sequence]) -> None:
        """These have another drafter from now on, which doesn't know them."""
        self._waiting.update(sequences)

    def step(self, able: list[Sequence], runner: Runner, ready: Callable[[], None]) -> list[Sequence]:
        """Hand over as many as a step may; who of `able` can draft in it. `ready` before the ring is read."""
        waiting = [sequence for sequence in able if sequence in self._waiting]
        if runner.batches_freely or not waiting:
            self._waiting.clear()
            return able
        ready()
        taken: dict[Arm, list[int]] = {}
        for sequence in waiting[: -(-len(able) // _A_STEP)]:
            assert sequence.arm is not None
            taken.setdefault(sequence.arm, []).append(sequence.slot)
            self._waiting.discard(sequence)
        for arm, slots in taken.items():
            if arm.state is not None:
                runner.follow(arm.state, slots)
        held = set(waiting)
        return [sequence for sequence in able if sequence not in held]
