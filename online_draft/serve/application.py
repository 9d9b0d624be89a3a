"""The Ray Serve application of one target. Only the replica's process imports torch."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any, cast

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

from online_draft.serve.config import ServiceConfig
from online_draft.serve.fleet.autoscaling import ingress_autoscaling, replica_autoscaling
from online_draft.serve.fleet.channel import Channel
from online_draft.serve.fleet.messages import Downlink, ReplicaLoad, Uplink
from online_draft.serve.ingress import Ingress

APP_NAME = "online-draft"
REPLICA = "Replica"
INGRESS = "Ingress"


ROUTER: Any = "online_draft.serve.fleet.routing:DirectedRouter"

REPLICA_CALLS = 10_000
"""At most so many calls and streams of ingresses at a time; the engine's own queue is the bound."""


class ServedReplica:
    """The Ray Serve deployment around `serve.replica.Replica`, which is built in its own process.

    An ingress opens one stream, and gives orders in calls of `tell`. Calls name the replica they mean (`to`,
    see `serve.routing`).
    """

    def __init__(self, raw_config: dict[str, Any]) -> None:
        from online_draft.serve.replica import Replica

        self._name = serve.get_replica_context().replica_id.unique_id
        self._channels: dict[str, Channel] = {}
        self._replica = Replica(raw_config)

    async def open(self, channel: str, to: str) -> AsyncGenerator[Downlink, None]:
        """One item per engine step with all that it gave this ingress. Nothing when another one is meant.

        Opened again behind a `last` message, it goes on without a gap.
        """
        if to != self._name:
            return
        self._channels = {name: known for name, known in self._channels.items() if not known.closed}
        opened = self._channels.get(channel) or self._replica.connect()
        self._channels[channel] = opened
        async with contextlib.aclosing(opened.down()) as messages:
            async for message in messages:
                yield message

    async def tell(self, channel: str, message: Uplink, to: str) -> ReplicaLoad | None:
        """Orders and cancellations of an open channel; None when there is no such channel here."""
        opened = self._channels.get(channel)
        if opened is None or opened.closed or to != self._name:
            return None
        opened.up(message)
        return self._replica.load()

    def status(self, to: str | None = None) -> dict[str, Any]:
        """Plain data for `/health` and the admin API."""
        return self._replica.status()

    def check_integrity(self, to: str | None = None) -> dict[str, int]:
        """For tests: AssertionError when the engine's books don't balance; else what is held now."""
        return self._replica.check_integrity()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For `serve.autoscaling`."""
        return {"pressure": self._replica.load().pressure}

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
    """Ingresses and replicas, scaled separately. The ingress asks for no CPU, so that two cores suffice."""
    scaling = config.scaling
    deployment = cast(Any, serve.deployment)
    replica = deployment(
        ServedReplica,
        name=REPLICA,
        **_number(replicas, replica_autoscaling(scaling, replicas)),
        max_ongoing_requests=REPLICA_CALLS,
        ray_actor_options={"num_cpus": cpus_per_replica, "num_gpus": gpus_per_replica},
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),
        health_check_period_s=2.0,
        health_check_timeout_s=10.0,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=scaling.drain_s + 10.0,
        max_constructor_retry_count=2,
    )
    ingress = deployment(
        serve.ingress()(Ingress),
        name=INGRESS,
        **_number(scaling.ingresses, ingress_autoscaling(scaling)),
        max_ongoing_requests=10_000,
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=2.0,
        health_check_timeout_s=10.0,
        graceful_shutdown_wait_loop_s=0.5,
        # A client's connection can't go on elsewhere: as long as what it asked for may have to.
        graceful_shutdown_timeout_s=scaling.drain_s + scaling.resume_s + 10.0,
    )
    raw = config.as_dict()
    return cast(Application, ingress.bind(replica.bind(raw), raw))


def _number(fixed: int, autoscaling: AutoscalingConfig | None) -> dict[str, Any]:
    return {"num_replicas": fixed} if autoscaling is None else {"autoscaling_config": autoscaling}
