"""What a caller hears who may not: the words, types and codes that OpenAI's clients know."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from online_draft.serve.access.bucket import Level
from online_draft.serve.api.errors import ApiError


class AccessError(ApiError):
    """An ApiError with a `type` of its own."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str,
        code: str | None,
        headers: dict[str, str] | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(status, message, param, code, headers)
        self.kind = kind

    def body(self) -> dict[str, Any]:
        """As the base, with our type."""
        body = super().body()
        body["error"]["type"] = self.kind
        return body


def no_key() -> AccessError:
    """401: no key came with the request."""
    return AccessError(
        401,
        "You didn't provide an API key: send it as Authorization: Bearer YOUR_KEY",
        "invalid_request_error",
        "invalid_api_key",
        {"WWW-Authenticate": "Bearer"},
    )


def wrong_key() -> AccessError:
    """401: the key isn't valid, or no longer."""
    return AccessError(
        401,
        "Incorrect API key provided",
        "invalid_request_error",
        "invalid_api_key",
        {"WWW-Authenticate": "Bearer"},
    )


def admin_only(path: str) -> AccessError:
    """401: only an admin key opens this."""
    return AccessError(
        401,
        f"{path} needs an admin key: Authorization: Bearer KEY",
        "invalid_request_error",
        "invalid_admin_key",
        {"WWW-Authenticate": "Bearer"},
    )


def over_limit(levels: Sequence[Level], key: str) -> AccessError:
    """429: one of the buckets doesn't hold enough now."""
    level = max(levels, key=lambda level: level.wait_s)
    wait = max(1, math.ceil(level.wait_s))
    message = (
        f"Rate limit reached for key {key} on {level.kind} per min: Limit {level.limit}, "
        f"Remaining {level.remaining}. Please try again in {wait}s."
    )
    headers = {
        **headers_of(levels),
        "Retry-After": str(wait),
        "Retry-After-Ms": str(max(1, math.ceil(level.wait_s * 1000))),
    }
    return AccessError(429, message, level.kind, "rate_limit_exceeded", headers)


def too_large(key: str, limit: int, most: int, asked: int) -> AccessError:
    """429: more tokens than a full bucket holds; waiting doesn't help."""
    message = (
        f"Request too large for key {key} on tokens per min: Limit {limit}, Most at once {most}, "
        f"Requested {asked}. Send fewer prompt tokens or ask for fewer with max_tokens."
    )
    return AccessError(429, message, "tokens", "rate_limit_exceeded", {"x-should-retry": "false"})


def too_many_streams(key: str, limit: int) -> AccessError:
    """429: the key has as many requests open as it may."""
    message = f"Too many concurrent requests for key {key}: Limit {limit}. Try again when one has ended."
    return AccessError(429, message, "requests", "rate_limit_exceeded", {"Retry-After": "1"})


def headers_of(levels: Sequence[Level]) -> dict[str, str]:
    """`x-ratelimit-*` as OpenAI names them."""
    headers = {}
    for level in levels:
        headers[f"x-ratelimit-limit-{level.kind}"] = str(level.limit)
        headers[f"x-ratelimit-remaining-{level.kind}"] = str(level.remaining)
        headers[f"x-ratelimit-reset-{level.kind}"] = duration(level.full_in_s)
    return headers


def duration(seconds: float) -> str:
    """Seconds as OpenAI writes them: 0s, 20ms, 1.5s, 6m0s."""
    if seconds < 1:
        milliseconds = math.ceil(seconds * 1000)
        return f"{milliseconds}ms" if 0 < milliseconds < 1000 else ("1s" if milliseconds else "0s")
    if seconds < 60:
        return f"{math.ceil(seconds * 1000) / 1000:g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + f"{minutes}m{rest}s"
