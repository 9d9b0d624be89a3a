"""Other weights for the target of a running engine, between two steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future

from online_draft.core import TARGET_UPDATED, StepOutput
from online_draft.decoding.scheduler import Scheduler


class TargetChange:
    """One change of weights, from `Engine.update_target` until `done`.

    From the next step on only sequences that have begun to answer go on, with the old weights; new ones wait.
    Those that are left after `drain_s` are ended with finish reason "abort". Then `write` copies the new
    weights into the target's tensors, everything that the engine knew by the old ones is forgotten (KV cache
    and prefixes, feature ring, n-gram memory, drafters and adapters, prepared weights), `installed`
    may give it drafters for the new target, and who waits goes on. So every answer is one target's.

    `done` gives the number of aborted sequences. After an error of `write`, which `step` raises, too, the
    target is in pieces and the engine must not be used any more.
    """

    def __init__(
        self,
        write: Callable[[], None],
        installed: Callable[[], None] = lambda: None,
        drain_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.done: Future[int] = Future()
        self.installed = installed
        self._write = write
        self._clock = clock
        self._until = clock() + drain_s
        self._began = False

    def write(self, scheduler: Scheduler, forget: Callable[[int], None]) -> list[StepOutput] | None:
        """Called before each step: None while old sequences go on; else the weights are the new ones, and
        these are the last outputs of those that were aborted. `forget` clears a slot."""
        if not self._began:
            self._began = True
            for slot in scheduler.hold_back():
                forget(slot)
        left = scheduler.answering
        if left and self._clock() < self._until:
            return None
        outputs = []
        for sequence in left:
            if scheduler.remove(sequence.request.request_id) is not None:
                forget(sequence.slot)
            outputs.append(sequence.abort(TARGET_UPDATED))
        try:
            self._write()
        except BaseException as error:
            self.done.set_exception(error)
            raise
        for sequence in scheduler.sequences():
            sequence.start_over()
        return outputs
