"""The Ray Serve deployment that speaks HTTP. Imports no torch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from online_draft import __version__
from online_draft.core import GenerationRequest, StepOutput
from online_draft.logs import set_up_logs
from online_draft.serve.access.gate import Gate
from online_draft.serve.access.keyring import Keyring
from online_draft.serve.access.limiter import Limiter
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.admin.routes import build_admin_router
from online_draft.serve.api.app import Model, build_app
from online_draft.serve.api.errors import ApiError
from online_draft.serve.api.prompts import PromptEncoder, tokenizer_directory
from online_draft.serve.config import ServiceConfig
from online_draft.serve.engine_thread import EngineDead
from online_draft.serve.fleet.fleet import Fleet
from online_draft.serve.fleet.link import ReplicaLost
from online_draft.serve.fleet.resume import run

logger = logging.getLogger(__name__)

STATUS_TIMEOUT_S = 2.0


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
    """Speaks HTTP. Ready when a replica is, since only that knows the target's fingerprint."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits constructors
        self, replica: DeploymentHandle[Any], raw_config: dict[str, Any]
    ) -> None:
        self._config = ServiceConfig.from_dict(raw_config)
        self._backend = RayBackend(replica, self._config)
        self._fingerprint = str((await self._backend.start())["fingerprint"])
        names = {"model": self._config.model_name, "target": self._fingerprint, "code": __version__}
        set_up_logs(self._config.log, "ingress", **names)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve once the constructor is done."""
        config = self._config
        encoder = PromptEncoder(tokenizer_directory(config.target), config.engine.max_context)
        desk = AdminDesk(config.store, self._fingerprint, config.redis_url, config.keys)
        gate = self._build_gate()
        admin = build_admin_router(desk, self._backend, config.admin_key, gate.admin_name)
        model = Model(config.model_name, self._fingerprint)
        return build_app(self._backend, encoder, model, admin, gate=gate, echo_request_id=False)

    def end(self) -> None:
        """Called before the whole service ends: `/ready` says so, and nothing waits for replicas any more."""
        self._backend.end()

    def __del__(self) -> None:
        """Ray Serve calls this when the ingress is shut down in order."""
        with contextlib.suppress(AttributeError, RuntimeError):  # never built; its event loop is gone
            self._backend.close()

    def _build_gate(self) -> Gate:
        config = self._config
        file = None if config.access.keys_file is None else Path(config.access.keys_file)
        keyring = Keyring(file, config.access.keys, config.keys_required)
        return Gate(config.access, keyring, Limiter(config.redis_url, config.keys), config.admin_key)
