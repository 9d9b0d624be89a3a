"""OpenTelemetry traces of one process, switched on by the standard `OTEL_*` environment.

On where an endpoint (`OTEL_EXPORTER_OTLP_ENDPOINT`, `…_TRACES_ENDPOINT`) or `OTEL_TRACES_EXPORTER` is set,
and the extra `online-draft[otel]` is installed. Samplers, batches, headers and resource are the SDK's to read
from the environment. While off, `tracer` gives None and nothing of OpenTelemetry is imported.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from online_draft import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

logger = logging.getLogger(__name__)

SERVICE = "online-draft"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_EXPORTERS = ("otlp", "console")

_provider: TracerProvider | None = None
_tracer: Tracer | None = None


def tracer() -> Tracer | None:
    """What makes spans in this process; None while traces are off."""
    return _tracer


def set_up_tracing(process: str, environment: Mapping[str, str] = os.environ) -> None:
    """Trace this process, a part of the service called `process`, if the environment asks for it.

    A missing extra or an exporter that isn't known is logged, and traces stay off.
    """
    name = wanted(environment)
    if name is None:
        return
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = _exporter(name)
    except ImportError:
        logger.warning("no traces, OpenTelemetry is missing: pip install 'online-draft[otel]'")
        return
    resource = {
        "service.name": environment.get("OTEL_SERVICE_NAME", SERVICE),
        "service.version": __version__,
        "service.instance.id": f"{process}-{os.getpid()}",
    }
    provider = TracerProvider(resource=Resource.create(resource))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    use(provider)


def use(provider: TracerProvider | None) -> None:
    """Make spans with this provider from now on; None: make none."""
    global _provider, _tracer
    _provider = provider
    _tracer = None if provider is None else provider.get_tracer(SERVICE, __version__)


def shut_down_tracing() -> None:
    """Send what waits, and make no spans any more. Idempotent."""
    provider = _provider
    use(None)
    if provider is not None:
        provider.shutdown()


def wanted(environment: Mapping[str, str]) -> str | None:
    """The exporter that the environment asks for, None for no traces."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    named = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if not named:
        return "otlp" if any(environment.get(name) for name in _ENDPOINTS) else None
    if named == "none":
        return None
    if named not in _EXPORTERS:
        logger.warning("no traces: OTEL_TRACES_EXPORTER is %s, accepted are otlp, console, none", named)
        return None
    return named


def _exporter(name: str) -> SpanExporter:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()
