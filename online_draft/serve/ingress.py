"""The Ray Serve deployment that speaks HTTP. Imports no torch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from online_draft import __version__
from online_draft.core import GenerationRequest, StepOutput
from online_draft.errors import EngineDead, LaunchError
from online_draft.logs import set_up_logs
from online_draft.serve.access.gate import Gate
from online_draft.serve.access.keyring import Keyring
from online_draft.serve.access.limiter import Limiter
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.admin.routes import build_admin_router
from online_draft.serve.admin.system_metrics import SystemMetrics
from online_draft.serve.api.app import Model, Served, build_app
from online_draft.serve.api.errors import ApiError
from online_draft.serve.api.prompts import PromptEncoder, tokenizer_directory
from online_draft.serve.config import ServiceConfig
from online_draft.serve.fleet.fleet import Fleet
from online_draft.serve.fleet.link import ReplicaLost
from online_draft.serve.fleet.resume import run
from online_draft.serve.listener import Listener
from online_draft.serve.membership import may_serve
from online_draft.tracing import set_up_tracing, shut_down_tracing

logger = logging.getLogger(__name__)

STATUS_TIMEOUT_S = 2.0
FOLLOW_EVERY_S = 2.0


class RayBackend:
    """The replicas behind a Ray Serve handle, as the API sees them."""

    def __init__(self, handle: DeploymentHandle[Any], config: ServiceConfig) -> None:
        self._handle = handle
        engine = config.engine
        room = engine.max_sequences + engine.max_queue
        self._fleet = Fleet(handle, config.scaling, engine.block_size, room, config.hang_after_s)

    async def start(self) -> dict[str, Any]:
        """Find the replicas; returns the state of one of them."""
        status: dict[str, Any] = await self._handle.status.remote()
        self._fleet.start()
        return status

    def generate(self, request: GenerationRequest) -> AsyncIterator[StepOutput]:
        """One item per engine step, whatever becomes of replicas meanwhile."""
        return self._run(request, live=True)

    async def complete(self, request: GenerationRequest) -> list[StepOutput]:
        """The same at once, with fewer messages."""
        async with contextlib.aclosing(self._run(request, live=False)) as steps:
            return [output async for output in steps]

    @property
    def ending(self) -> bool:
        """Whether the service is about to end."""
        return self._fleet.ending

    async def status(self) -> dict[str, Any]:
        """The state of a replica that works, if one does; with the number of `replicas`."""
        links = self._fleet.open
        shared = {"replicas": len(links), "draining": self._fleet.ending}
        status: dict[str, Any] = {}
        for link in sorted(links, key=lambda link: link.pressure):
            with contextlib.suppress(TimeoutError, RayError, RayServeException):
                async with asyncio.timeout(STATUS_TIMEOUT_S):
                    status = await self._handle.status.remote(to=link.name)
                if not status["engine_error"]:
                    break
        return {**(status or await self._handle.status.remote()), **shared}

    async def update_target(self, path: str, actor: str, reason: str, drain_s: float) -> dict[str, Any]:
        """As `Replica.update_target`, on one of them; the others learn of it from the artifact store."""
        answer: dict[str, Any] = await self._handle.update_target.remote(path, actor, reason, drain_s)
        return answer

    def end(self) -> None:
        """The service is about to end."""
        self._fleet.end()

    def close(self) -> None:
        """Let go of all replicas. Idempotent."""
        self._fleet.close()

    async def _run(self, request: GenerationRequest, live: bool) -> AsyncGenerator[StepOutput, None]:
        try:
            async with contextlib.aclosing(run(self._fleet, request, live)) as steps:
                async for output in steps:
                    yield output
        except (ReplicaLost, EngineDead) as error:
            logger.error("request %s can't be finished: %s", request.request_id, error)
            headers = {"Retry-After": "1"}
            message = "the replica was lost; try again"
            raise ApiError(503, message, code="replica_lost", headers=headers) from error


class Ingress:
    """Speaks HTTP: through Ray Serve's proxy, or with `listen` itself. Ready when a replica of each model is,
    since only those know the targets' fingerprints."""

    _listener: Listener | None = None

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits constructors
        self, replicas: Sequence[DeploymentHandle[Any]], raw_configs: Sequence[dict[str, Any]]
    ) -> None:
        """One handle and one configuration for each model; that of the first holds for the endpoint."""
        with may_serve(raw_configs[0]):  # other code may have other fields
            self._configs = [ServiceConfig.from_dict(raw) for raw in raw_configs]
        self._config = self._configs[0]
        self._backends = [RayBackend(*each) for each in zip(replicas, self._configs, strict=True)]
        states = await asyncio.gather(*(backend.start() for backend in self._backends))
        self._models = [
            Model(config.model_name, str(state["fingerprint"]), config.aliases)
            for config, state in zip(self._configs, states, strict=True)
        ]
        self._origins = [str(state["origin"]) for state in states]
        names = {
            "model": ",".join(model.name for model in self._models),
            "target": ",".join(model.fingerprint for model in self._models),
            "code": __version__,
        }
        set_up_logs(self._config.log, "ingress", **names)
        set_up_tracing("ingress")

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve once the constructor is done."""
        config, gate = self._config, self._build_gate()
        others = [self._desk(place) for place in range(1, len(self._models))]
        desk = self._desk(0, others)
        first, *more = [self._serve(place, each, gate) for place, each in enumerate([desk, *others])]
        app = build_app(
            first.backend,
            first.encoder,
            first.model,
            first.admin,
            gate=gate,
            echo_request_id=config.listen is not None,
            system_metrics=SystemMetrics(desk).text,
            more=more,
        )
        self._following = asyncio.create_task(self._follow_targets())
        if config.listen is not None:
            grace_s = config.scaling.drain_s + config.scaling.resume_s
            self._listener = Listener(app, config.listen, grace_s)
            self._listener.start()
        return app

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For `serve.fleet.autoscaling`."""
        return {"pressure": float(self._listener.requests) if self._listener is not None else 0.0}

    def check_health(self) -> None:
        """Ray Serve replaces an ingress that accepts no connections."""
        if self._listener is not None and not self._listener.alive:
            raise LaunchError("the ingress accepts no connections")

    def end(self) -> None:
        """Called before the whole service ends: `/ready` says so, and nothing waits for replicas any more."""
        for backend in self._backends:
            backend.end()

    async def __del__(self) -> None:
        """Ray Serve calls this when the ingress is shut down in order."""
        if self._listener is not None:
            await self._listener.end()
        shut_down_tracing()
        with contextlib.suppress(AttributeError, RuntimeError):  # never built; its event loop is gone
            for backend in self._backends:
                backend.close()

    async def _follow_targets(self) -> None:
        """Keep the fingerprints that clients see at those of the replicas."""
        while True:
            await asyncio.sleep(FOLLOW_EVERY_S)
            for model, backend in zip(self._models, self._backends, strict=True):
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(FOLLOW_EVERY_S):  # another model's may be well
                        model.fingerprint = str((await backend.status())["fingerprint"])

    def _desk(self, place: int, others: Sequence[AdminDesk] = ()) -> AdminDesk:
        config, model = self._configs[place], self._models[place]
        return AdminDesk(
            config.store, self._origins[place], config.redis_url, config.keys, model.name, others
        )

    def _serve(self, place: int, desk: AdminDesk, gate: Gate) -> Served:
        """A model with all that its routes need."""
        config, backend = self._configs[place], self._backends[place]
        encoder = PromptEncoder(tokenizer_directory(config.target), config.engine.max_context)
        admin = build_admin_router(
            desk, backend, config.admin_key, gate.admin_name, gate.admins, self._models
        )
        return Served(self._models[place], backend, encoder, admin)

    def _build_gate(self) -> Gate:
        config = self._config
        file = None if config.access.keys_file is None else Path(config.access.keys_file)
        keyring = Keyring(file, config.access.keys, config.keys_required)
        return Gate(config.access, keyring, Limiter(config.redis_url, config.keys), config.admin_key)
