"""The Ray Serve deployment that speaks HTTP. Imports no torch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator

from online_draft import __version__
from online_draft.core import GenerationRequest, StepOutput
from online_draft.errors import CapacityError, RequestError
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

logger = logging.getLogger(__name__)


class RayBackend:
    """The replicas behind a Ray Serve handle, as the API sees them."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle
        self._streaming = handle.options(stream=True)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[StepOutput]:
        """Stream from one replica; a replica that dies under us is a 503, or an error event when late."""
        stream = cast(DeploymentResponseGenerator[StepOutput], self._streaming.generate.remote(request))
        ended = False
        try:
            async for output in stream:
                ended = output.finish_reason is not None
                yield output
        except (RayError, RayServeException) as error:
            ended = True
            raise _as_our_error(error, request) from error
        finally:
            if not ended:
                stream.cancel()  # type: ignore[no-untyped-call]

    async def complete(self, request: GenerationRequest) -> list[StepOutput]:
        """The whole of one sequence in one message."""
        response = cast(DeploymentResponse[list[StepOutput]], self._handle.complete.remote(request))
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()  # type: ignore[no-untyped-call]
            raise
        except (RayError, RayServeException) as error:
            raise _as_our_error(error, request) from error

    async def status(self) -> dict[str, Any]:
        """One replica's state."""
        status: dict[str, Any] = await self._handle.status.remote()
        return status


def _as_our_error(error: Exception, request: GenerationRequest) -> Exception:
    """What Ray wrapped, or what it means to a client."""
    if isinstance(error, RayTaskError):
        return error.cause if isinstance(error.cause, RequestError) else error
    if isinstance(error, BackPressureError):
        return CapacityError("all replicas are busy")
    logger.error("request %s lost its replica: %s", request.request_id, error)
    headers = {"Retry-After": "1"}
    return ApiError(503, "the replica was lost; try again", code="replica_lost", headers=headers)


class Ingress:
    """Speaks HTTP. Ready when a replica is, since only that knows the target's fingerprint."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits constructors
        self, replica: DeploymentHandle[Any], raw_config: dict[str, Any]
    ) -> None:
        self._config = ServiceConfig.from_dict(raw_config)
        self._backend = RayBackend(replica)
        self._fingerprint = str((await self._backend.status())["fingerprint"])
        names = {"model": self._config.model_name, "target": self._fingerprint, "code": __version__}
        set_up_logs(self._config.log, "ingress", **names)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve once the constructor is done."""
        config = self._config
        encoder = PromptEncoder(tokenizer_directory(config.target), config.engine.max_context)
        desk = AdminDesk(config.store, self._fingerprint, config.redis_url, config.keys)
        gate = self._build_gate()
        admin = build_admin_router(desk, self._backend, config.admin_key, gate.is_admin)
        model = Model(config.model_name, self._fingerprint)
        return build_app(self._backend, encoder, model, admin, gate=gate, echo_request_id=False)

    def _build_gate(self) -> Gate:
        config = self._config
        file = None if config.access.keys_file is None else Path(config.access.keys_file)
        keyring = Keyring(file, config.access.keys, config.keys_required)
        return Gate(config.access, keyring, Limiter(config.redis_url, config.keys), config.admin_key)
