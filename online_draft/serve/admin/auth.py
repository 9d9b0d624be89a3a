"""Who may use the admin API: a bearer key, or the page's session cookie with a token against forgery."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hmac import compare_digest
from typing import Annotated

from fastapi import Header, Request

from online_draft.errors import ConfigError
from online_draft.serve.api.errors import ApiError

ACTOR = "admin"
COOKIE = "online_draft_admin"
SESSION_S = 12 * 3600
_SAFE = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Session:
    """Who signed in; `token` is the cookie, `csrf` what a page must send along to decide anything."""

    actor: str
    token: str
    csrf: str


class AdminAuth:
    """Holds no state: any ingress of a service knows the sessions of the others.

    A session is signed with the admin key, so another key ends all of them; that of an admin in the keys
    ends with that key, too. Signing out forgets the cookie.
    """

    def __init__(
        self,
        admin_key: str,
        admin_name: Callable[[str], str | None] = lambda secret: None,
        admins: Callable[[], Mapping[str, str]] = dict,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`admin_name` knows further admins by their secrets, `admins` their names by the secrets' digests.
        An empty key would lock everybody out, so ConfigError."""
        if not admin_key:
            raise ConfigError("admin_key", "must not be empty")
        self._admin_key = admin_key.encode()
        self._admin_name = admin_name
        self._admins = admins
        self._clock = clock
        self._signing = hmac.digest(self._admin_key, b"online-draft admin session", "sha256")

    async def check(
        self,
        request: Request,
        authorization: Annotated[str, Header()] = "",
        x_csrf_token: Annotated[str, Header(description="only with the page's cookie")] = "",
    ) -> str:
        """Who it is, as the journal says it. ApiError 401, or 403 for a decision without the page's token."""
        if authorization or COOKIE not in request.cookies:
            actor = self.actor_of(authorization.removeprefix("Bearer "))
            if actor is None:
                raise _no_key("a valid admin key is needed: Authorization: Bearer KEY")
            return actor
        session = self.session_of(request)
        if session is None:
            raise _no_key("the session has ended; sign in again")
        if request.method not in _SAFE and not _same(x_csrf_token, session.csrf):
            raise ApiError(403, "X-CSRF-Token: must be this session's", "X-CSRF-Token", "csrf")
        return session.actor

    def actor_of(self, secret: str) -> str | None:
        """The admin of a secret, None for anybody else."""
        if _same(secret, self._admin_key.decode()):
            return ACTOR
        name = self._admin_name(secret)
        return None if name is None else f"{ACTOR}:{name}"

    def sign_in(self, secret: str) -> Session | None:
        """A new session of the admin with that secret."""
        actor = self.actor_of(secret)
        if actor is None:
            return None
        mark = "" if actor == ACTOR else self._mark(hashlib.sha256(secret.encode()).hexdigest())
        body = f"{int(self._clock()) + SESSION_S}.{secrets.token_hex(16)}.{mark}"
        return self._session(f"{body}.{self._sign(body)}", actor)

    def session_of(self, request: Request) -> Session | None:
        """The session of a request's cookie, while it lasts."""
        token = request.cookies.get(COOKIE, "")
        body, _, signature = token.rpartition(".")
        if not body or not _same(signature, self._sign(body)):
            return None
        expires, _, mark = body.split(".")
        if self._clock() >= int(expires):
            return None
        if not mark:
            return self._session(token, ACTOR)
        names = [name for digest, name in self._admins().items() if _same(self._mark(digest), mark)]
        return self._session(token, f"{ACTOR}:{names[0]}") if names else None

    def _session(self, token: str, actor: str) -> Session:
        return Session(actor, token, self._sign(f"csrf {token}"))

    def _mark(self, digest: str) -> str:
        return self._sign(f"admin {digest}")

    def _sign(self, text: str) -> str:
        return hmac.new(self._signing, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def _same(given: str, right: str) -> bool:
    return compare_digest(given.encode("utf-8", "replace"), right.encode())


def _no_key(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_admin_key", headers={"WWW-Authenticate": "Bearer"})
