"""One request that was let in: whose it is, what was charged for it, what is to be given back."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from online_draft.serve.access.bucket import MINUTE, Demand, Kind, Level
from online_draft.serve.access.config import AccessConfig
from online_draft.serve.access.errors import (
    headers_of,
    over_limit,
    too_large,
    too_many_streams,
)
from online_draft.serve.access.key import ANYONE, ApiKey
from online_draft.serve.access.limiter import Limiter
from online_draft.serve.api.errors import ApiError
from online_draft.serve.api.jobs import Caller, Job

SCOPE_KEY = "online_draft.ticket"
UNSTATED_TOKENS = 256
"""Reserved for a sequence whose client didn't say `max_tokens`."""


class Ticket:
    """From admission to the last byte. `request` and `stream` are taken by `open`, tokens by `admit`.

    Tokens: prompt and `max_tokens` of all sequences are reserved at admission, as OpenAI counts them; when
    the request ends, what it didn't use is given back, and what it used beyond an unstated `max_tokens`
    charged.
    """

    def __init__(self, key: ApiKey, config: AccessConfig, limiter: Limiter) -> None:
        self.key = key
        self.job: Job | None = None
        self.revoked = asyncio.Event()
        self._config = config
        self._limiter = limiter
        self._lease: str | None = None
        self._levels: dict[str, Level] = {}
        self._charged = 0
        self.closed = False

    @property
    def caller(self) -> Caller:
        """Whom the call is planned for."""
        if self.key is ANYONE:
            return Caller()
        key = self.key
        models = None if key.models is None else frozenset(key.models)
        return Caller(key.tenant, key.priority, key.learn, may_hurry=False, models=models)

    @property
    def headers(self) -> dict[str, str]:
        """`x-ratelimit-*` as of now."""
        return headers_of(list(self._levels.values()))

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens of prompt and answer so far."""
        if self.job is None:
            return 0, 0
        usage = self.job.usage()
        return int(usage["prompt_tokens"]), int(usage["completion_tokens"])

    async def open(self) -> None:
        """Count the request and its stream. AccessError 429."""
        if self.key.requests_per_minute is not None:
            await self._take("requests", self.key.requests_per_minute, 1)
        if self.key.max_streams is not None:
            self._lease = await self._limiter.open_stream(self.key.name, self.key.max_streams)
            if self._lease is None:
                raise too_many_streams(self.key.name, self.key.max_streams)

    async def admit(self, job: Job) -> None:
        """Check a planned call against the bounds and charge its tokens.

        ApiError 400 for a bound, AccessError 429 for a limit.
        """
        self._check_bounds(job)
        self.job = job
        per_minute = self.key.tokens_per_minute
        if per_minute is None:
            return
        reserved = self._reserve(job, per_minute)
        await self._take("tokens", per_minute, reserved)
        self._charged = reserved

    async def charge_excess(self) -> None:
        """Charge what was generated beyond the reservation so far."""
        used = sum(self.tokens)
        if self.key.tokens_per_minute is not None and used > self._charged > 0:
            demand = self._demand("tokens", self.key.tokens_per_minute, used - self._charged)
            self._charged = used
            await self._limiter.charge(demand)

    async def close(self) -> None:
        """Settle. Idempotent."""
        if self.closed:
            return
        self.closed = True
        if self.key.tokens_per_minute is not None and self._charged:
            difference = sum(self.tokens) - self._charged
            if difference:
                await self._limiter.charge(self._demand("tokens", self.key.tokens_per_minute, difference))
        if self._lease is not None:
            await self._limiter.close_stream(self._lease)

    def _check_bounds(self, job: Job) -> None:
        config = self._config
        if (job.body.n or 1) > config.max_n:
            raise ApiError(400, f"n: at most {config.max_n} here, got {job.body.n}", "n", "invalid_value")
        if config.max_prompt_tokens is not None:
            longest = max(len(choice.request.prompt_ids) for choice in job.choices)
            if longest > config.max_prompt_tokens:
                param = "messages" if job.is_chat else "prompt"
                raise ApiError(
                    400,
                    f"{param}: at most {config.max_prompt_tokens} prompt tokens here, got {longest}",
                    param,
                    "context_length_exceeded",
                )

    def _reserve(self, job: Job, per_minute: int) -> int:
        prompts = int(job.usage()["prompt_tokens"])
        stated = job.body.max_tokens or getattr(job.body, "max_completion_tokens", None)
        lengths = [choice.request.sampling.max_tokens for choice in job.choices]
        most = int(self._demand("tokens", per_minute, 0).burst_us * per_minute / MINUTE)
        if stated:
            reserved = prompts + sum(lengths)
        else:
            unstated = sum(min(UNSTATED_TOKENS, length) for length in lengths)
            reserved = max(prompts + 1, min(prompts + unstated, most))
        if reserved > most:
            raise too_large(self.key.name, per_minute, most, reserved)
        return reserved

    async def _take(self, kind: Kind, per_minute: int, amount: int) -> None:
        verdict = await self._limiter.take([self._demand(kind, per_minute, amount)])
        self._levels.update((level.kind, level) for level in verdict.levels)
        if not verdict.met:
            raise over_limit(verdict.levels, self.key.name)

    def _demand(self, kind: Kind, per_minute: int, amount: float) -> Demand:
        return Demand(self.key.name, kind, per_minute, self._config.burst_s, amount)


async def admit(scope: MutableMapping[str, Any], job: Job) -> None:
    """`Ticket.admit` for the request of an ASGI scope; nothing where no middleware gave it a ticket."""
    ticket = scope.get(SCOPE_KEY)
    if ticket is not None:
        await ticket.admit(job)
