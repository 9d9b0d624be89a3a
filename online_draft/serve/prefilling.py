"""A prefill for the learner, on a replica that has nothing else to do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch

from online_draft.models.loading import LoadedTarget
from online_draft.models.prefill import Prefill
from online_draft.training.prefill_order import Outcome, PrefillOrder, PrefillReply

logger = logging.getLogger(__name__)


class FeaturePrefill:
    """`SpareWork`: one decoder layer is a slice. Memory is that of one prefill, and free again at the end."""

    def __init__(self, order: PrefillOrder, loaded: Callable[[], LoadedTarget], replica: str = "") -> None:
        """`loaded` is the target as it is now: an order for another one is refused, also on the way."""
        self.reply: Future[PrefillReply] = Future()
        self.reply.set_running_or_notify_cancel()  # so that nobody can cancel it
        self._order = order
        self._loaded = loaded
        self._replica = replica
        self._prefill: Prefill | None = None
        self._longest_s = 0.0
        self._answer = self._reply("busy")

    def advance(self) -> bool:
        """Run the next layer. On a GPU it returns when the layer has run."""
        try:
            answer = self._advance()
        except Exception as error:
            logger.warning("a prefill for the learner failed: %s", error)
            self._prefill = None
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
            answer = self._reply("failed", f"{type(error).__name__}: {error}")
        if answer is None:
            return False
        self._prefill, self._answer = None, answer
        return True

    def finish(self) -> None:
        """Answer."""
        self.reply.set_result(self._answer)

    def drop(self) -> None:
        """Say that the replica is busy."""
        self._prefill = None
        self.reply.set_result(self._reply("busy"))

    @torch.inference_mode()
    def _advance(self) -> PrefillReply | None:
        loaded = self._loaded()
        order, device = self._order, loaded.target.device
        if loaded.fingerprint != order.target:
            return self._reply("another target")
        began = time.perf_counter()
        if self._prefill is None:
            wrong = order.wrong(loaded.config.vocab_size, loaded.config.max_position_embeddings)
            if wrong:
                return self._reply("failed", wrong)
            self._prefill = Prefill(loaded.target, *order.arguments(device))
        self._prefill.advance()
        if device.type == "cuda":
            # Else all layers would be queued at once, before whatever comes next.
            torch.cuda.current_stream(device).synchronize()
        made = PrefillReply.packed(self._prefill.hidden(), order) if self._prefill.done else None
        self._longest_s = max(self._longest_s, time.perf_counter() - began)
        return None if made is None else self._reply("made", **made)

    def _reply(self, outcome: Outcome, reason: str = "", **made: Any) -> PrefillReply:
        slice_ms, target = 1000 * self._longest_s, self._loaded().fingerprint
        return PrefillReply(outcome, target, self._replica, reason, slice_ms=slice_ms, **made)
