"""Calls to the replicas of a running service, wherever in the cluster they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from online_draft.learner.features.replicas import FeaturesAway
from online_draft.training.prefill_order import PrefillOrder, PrefillReply

TIMEOUT_S = 60.0


class ReplicaCalls:
    """Asks one of the replicas of a Ray Serve deployment, one that isn't to be avoided if there is one.

    Imports Ray Serve at the first call, which must not come from an event loop's thread.
    """

    def __init__(self, app: str, deployment: str, timeout_s: float = TIMEOUT_S) -> None:
        self._app = app
        self._deployment = deployment
        self._timeout_s = timeout_s
        self._handle: Any = None

    def __call__(self, order: PrefillOrder, avoid: Sequence[str]) -> PrefillReply:
        """The reply of one of them. Blocks; FeaturesAway when none answers in time."""
        from ray import serve
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        try:
            if self._handle is None:
                self._handle = serve.get_deployment_handle(self._deployment, self._app)
            response = self._handle.prefill.remote(order, avoid=tuple(avoid))
            try:
                reply: PrefillReply = response.result(timeout_s=self._timeout_s)
            except TimeoutError:
                response.cancel()
                raise
        except (RayError, RayServeException, TimeoutError) as error:
            raise FeaturesAway(f"no replica answers: {type(error).__name__}") from error
        return reply
