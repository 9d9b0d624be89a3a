"""What one ingress process counts, for Prometheus. Counts only: no prompt, no tenant, no key."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import Scope

from online_draft import __version__
from online_draft.serve.api.choice import Choice

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class ApiMetrics:
    """Counters of one application. `ingress` in `online_draft_ingress_info` tells its process from others."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        info = Gauge(
            "online_draft_ingress_info", "1; version and name of this process", ("version", "ingress"),
            registry=registry,
        )  # fmt: skip
        info.labels(__version__, f"{socket.gethostname()}-{os.getpid()}").set(1)
        self.in_flight = Gauge(
            "online_draft_http_requests_in_flight", "requests being answered", registry=registry
        )
        self._requests = Counter(
            "online_draft_http_requests", "HTTP requests answered", ("route", "method", "status"),
            registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "online_draft_http_request_seconds", "from request to the answer's end", ("route",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._choices = Counter(
            "online_draft_choices", "sequences ended, by finish reason or 'cancelled'",
            ("model", "finish_reason"), registry=registry,
        )  # fmt: skip
        self._tokens = Counter(
            "online_draft_tokens", "tokens of prompts and answers; drafted and accepted ones of drafts",
            ("model", "kind"), registry=registry,
        )  # fmt: skip
        self._first = Histogram(
            "online_draft_time_to_first_token_seconds", "of streams: until the first token is there",
            ("model",), buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._each = Histogram(
            "online_draft_time_per_output_token_seconds", "of streams: time over tokens after the first step",
            ("model",), buckets=_TOKEN_SECONDS, registry=registry,
        )  # fmt: skip

    def answered(self, scope: Scope, status: int, seconds: float) -> None:
        """Count one HTTP request. Routes and methods that don't exist count as `other`."""
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def generated(
        self,
        model: str,
        choices: Iterable[Choice],
        prompt_tokens: int,
        seconds: float,
        first_after: float | None,
    ) -> None:
        """Count a job, finished or not. `first_after` is when a stream had its first tokens, else None."""
        self._tokens.labels(model, "prompt").inc(prompt_tokens)
        for choice in choices:
            self._choices.labels(model, choice.finish_reason or "cancelled").inc()
            self._tokens.labels(model, "completion").inc(len(choice.token_ids))
            self._tokens.labels(model, "drafted").inc(choice.counts.drafted)
            self._tokens.labels(model, "accepted").inc(choice.counts.accepted_tokens)
            later = len(choice.token_ids) - (choice.step_lengths[0] if choice.step_lengths else 0)
            if first_after is not None and later > 0:
                self._each.labels(model).observe((seconds - first_after) / later)
        if first_after is not None:
            self._first.labels(model).observe(first_after)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


_METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}
