"""The Ray Serve application of one target. Only the replica's process imports torch."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any, cast

from ray import serve
from ray.serve import Application

from online_draft.core import GenerationRequest, StepOutput
from online_draft.serve.config import ServiceConfig
from online_draft.serve.ingress import Ingress

APP_NAME = "online-draft"
REPLICA = "Replica"
INGRESS = "Ingress"


class ServedReplica:
    """The Ray Serve deployment around `serve.replica.Replica`, which is built in its own process."""

    def __init__(self, raw_config: dict[str, Any]) -> None:
        from online_draft.serve.replica import Replica

        self._replica = Replica(raw_config)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[StepOutput, None]:
        """Stream one item per engine step."""
        async with contextlib.aclosing(self._replica.generate(request)) as steps:
            async for output in steps:
                yield output

    async def complete(self, request: GenerationRequest) -> list[StepOutput]:
        """All items at once: one message through Ray instead of one per step."""
        return [output async for output in self._replica.generate(request)]

    def status(self) -> dict[str, Any]:
        """Plain data for `/health` and the admin API."""
        return self._replica.status()

    def check_health(self) -> None:
        """Ray Serve replaces a replica whose engine is dead or hangs."""
        self._replica.check_health()

    def __del__(self) -> None:
        """Ray Serve calls this when the replica is shut down in order."""
        if hasattr(self, "_replica"):
            self._replica.close()


def build_application(
    config: ServiceConfig, replicas: int = 1, cpus_per_replica: float = 1.0, gpus_per_replica: float = 0.0
) -> Application:
    """Ingress and replicas. The ingress asks for no CPU, so that two cores suffice."""
    in_flight = config.engine.max_sequences + config.engine.max_queue
    deployment = cast(Any, serve.deployment)
    replica = deployment(
        ServedReplica,
        name=REPLICA,
        num_replicas=replicas,
        max_ongoing_requests=2 * in_flight,
        ray_actor_options={"num_cpus": cpus_per_replica, "num_gpus": gpus_per_replica},
        health_check_period_s=5.0,
        health_check_timeout_s=10.0,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=10.0,
        max_constructor_retry_count=2,
    )
    ingress = deployment(
        serve.ingress()(Ingress),
        name=INGRESS,
        max_ongoing_requests=10_000,
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=5.0,
        health_check_timeout_s=10.0,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=5.0,
    )
    raw = config.as_dict()
    return cast(Application, ingress.bind(replica.bind(raw), raw))
