"""Lets requests in: which paths need which key, and tickets for those who may."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from hmac import compare_digest

from online_draft.serve.access.config import AccessConfig
from online_draft.serve.access.errors import admin_only, no_key, wrong_key
from online_draft.serve.access.key import ANYONE, ApiKey
from online_draft.serve.access.keyring import LOOK_EVERY_S, Keyring
from online_draft.serve.access.limiter import Limiter
from online_draft.serve.access.ticket import Ticket

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/health", "/ready", "/version", "/openapi.json", "/metrics"})
"""Without a key; `/metrics` unless it is protected. `/admin` asks for its key itself. All else needs one."""

_CHARGE_EVERY = 10
"""Looks at the keys between two charges of long streams."""


class Gate:
    """One per ingress, used on its event loop."""

    def __init__(self, config: AccessConfig, keyring: Keyring, limiter: Limiter, admin_key: str) -> None:
        self.config = config
        self.keyring = keyring
        self.limiter = limiter
        self._admin_key = admin_key.encode()
        self._tickets: set[Ticket] = set()
        self._watch: asyncio.Task[None] | None = None

    def is_admin(self, secret: str) -> bool:
        """Whether a secret is the service's admin key or that of an admin in the keys."""
        own = compare_digest(secret.encode("utf-8", "replace"), self._admin_key)
        return self.admin_name(secret) is not None or own

    def admin_name(self, secret: str) -> str | None:
        """The name of an admin in the keys, by the secret."""
        self.keyring.refresh()
        key = self.keyring.find(secret)
        return key.name if key is not None and key.admin else None

    def admins(self) -> dict[str, str]:
        """The names of the admins in the keys, by the digests of their secrets."""
        self.keyring.refresh()
        return {key.digest: key.name for key in self.keyring.keys if key.admin}

    def identify(self, path: str, authorization: str | None) -> ApiKey:
        """Whose request this is. AccessError 401."""
        secret = bearer(authorization)
        if (
            path == "/admin"
            or path.startswith("/admin/")
            or (path in OPEN_PATHS and not self._protects(path))
        ):
            return ANYONE
        if self._protects(path):
            if secret is None or not self.is_admin(secret):
                raise admin_only(path)
            return ANYONE
        self.keyring.refresh()
        key = None if secret is None else self.keyring.find(secret)
        if key is not None:
            return key
        if self.config.open or not self.keyring.required:
            return ANYONE
        raise no_key() if secret is None else wrong_key()

    async def open(self, key: ApiKey, counted: bool) -> Ticket:
        """A ticket; `counted` requests fall under the key's limits. AccessError 429."""
        ticket = Ticket(key, self.config, self.limiter)
        if counted and key.limited:
            await ticket.open()
        if key is not ANYONE:
            self._tickets.add(ticket)
            if self._watch is None or self._watch.done():
                self._watch = asyncio.create_task(self._look())
        return ticket

    async def close(self, ticket: Ticket) -> None:
        """The request has ended. Idempotent."""
        self._tickets.discard(ticket)
        await ticket.close()

    async def shut_down(self) -> None:
        """End the background tasks."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        await self.limiter.close()

    def _protects(self, path: str) -> bool:
        return path == "/metrics" and self.config.protect_metrics

    async def _look(self) -> None:
        """While requests are open: end those of revoked keys, charge long ones as they go."""
        looks = seen = 0
        while self._tickets:
            await asyncio.sleep(LOOK_EVERY_S)
            looks += 1
            self.keyring.refresh(at_once=True)
            if self.keyring.changes != seen:
                seen = self.keyring.changes
                for ticket in self._tickets:
                    if not self.keyring.holds(ticket.key):
                        ticket.revoked.set()
            if looks % _CHARGE_EVERY == 0:
                for ticket in list(self._tickets):
                    await ticket.charge_excess()


def bearer(authorization: str | None) -> str | None:
    """The secret in an Authorization header; None when there is none."""
    scheme, _, secret = (authorization or "").strip().partition(" ")
    return secret.strip() or None if scheme.lower() == "bearer" else None
