"""One message, and the forms in which receivers understand it."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Event = Literal["raised", "cleared", "decided"]
Form = Callable[["Message"], bytes]

_SIGNS: dict[Event, str] = {
    "raised": ":rotating_light:",
    "cleared": ":white_check_mark: cleared:",
    "decided": ":leftwards_arrow_with_hook:",
}


@dataclass(frozen=True, slots=True)
class Message:
    """An alarm was `raised` or has `cleared`, or something was `decided`. `id` is the same however often it
    is sent. `code`, `about`, `message` and `since_ms` as in an alarm; `at_ms` is when it was noticed."""

    id: str
    event: Event
    model: str
    code: str
    about: str
    message: str
    since_ms: int
    at_ms: int

    @classmethod
    def new(
        cls, event: Event, model: str, code: str, about: str, message: str, since_ms: int, at_ms: int
    ) -> Message:
        """With an id made of what it is about and when."""
        named = "\0".join((event, model, code, about, str(at_ms)))
        digest = hashlib.sha256(named.encode("utf-8", "replace")).hexdigest()
        return cls(digest[:16], event, model, code, about, message, since_ms, at_ms)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Message:
        """Inverse of `asdict`. TypeError when it isn't one."""
        return cls(**raw)


def as_json(message: Message) -> bytes:
    """The message's fields as a JSON object."""
    return json.dumps(asdict(message)).encode()


def as_slack(message: Message) -> bytes:
    """What Slack and those who understand its incoming webhooks show; names from outside mention nobody."""
    where = f" ({message.model})" if message.model else ""
    head = f"{_SIGNS[message.event]} *{_escaped(message.code)}*{_escaped(where)} {_escaped(message.about)}"
    return json.dumps({"text": f"{head}: {_escaped(message.message)}"}).encode()


def signature(secret: str, body: bytes) -> str:
    """`sha256=` and the body's HMAC in hex: only who knows the secret can have sent it."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
