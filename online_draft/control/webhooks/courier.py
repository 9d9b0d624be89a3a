"""Delivers messages to one receiver, on a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import httpx

from online_draft.control.webhooks.message import Form, Message, signature

logger = logging.getLogger(__name__)

SIGNATURE = "X-Online-Draft-Signature"
MAX_WAITING = 100
_WORTH_ANOTHER_TRY = frozenset((408, 425, 429))
"""Of the answers below 500."""


class Courier:
    """Tries each message, in order, until the receiver takes it (2xx), refuses it for good (3xx, 4xx), or
    `give_up_s` have passed since it happened; pauses double from `first_backoff_s` to `last_backoff_s`.

    `put` never blocks. Of more than `MAX_WAITING` messages the oldest is dropped. Neither logs nor the status
    say a word of the URL.
    """

    def __init__(
        self,
        name: str,
        url: str,
        form: Form,
        secret: str | None = None,
        timeout_s: float = 5.0,
        give_up_s: float = 3600.0,
        first_backoff_s: float = 1.0,
        last_backoff_s: float = 60.0,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.name = name
        self._url = url
        self._form = form
        self._secret = secret
        self._timeout_s = timeout_s
        self._give_up_ms = int(give_up_s * 1000)
        self._first_backoff_s = first_backoff_s
        self._last_backoff_s = last_backoff_s
        self._now_ms = now_ms
        self._news = threading.Condition()
        self._waiting: deque[Message] = deque()
        self._closing = False
        self._counts = {"sent": 0, "refused": 0, "given_up": 0, "dropped": 0}
        self._trouble = ""
        self._client: httpx.Client | None = None
        # At INFO it writes the URL of each request.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._thread = threading.Thread(target=self._run, name=f"webhook-{name}", daemon=True)
        self._thread.start()

    def put(self, message: Message) -> None:
        """Deliver it behind those that wait."""
        with self._news:
            if len(self._waiting) >= MAX_WAITING:
                self._waiting.popleft()
                self._counts["dropped"] += 1
            self._waiting.append(message)
            self._news.notify()

    @property
    def waiting(self) -> list[Message]:
        """What wasn't delivered yet."""
        with self._news:
            return list(self._waiting)

    def status(self) -> dict[str, Any]:
        """Messages by what became of them, how many wait, and what is wrong with the receiver, "" if
        nothing."""
        with self._news:
            return {**self._counts, "waiting": len(self._waiting), "trouble": self._trouble}

    def close(self, timeout_s: float = 0.5) -> None:
        """Leave what waits and end the thread, which may still be in a request afterwards. Idempotent."""
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        backoff_s = self._first_backoff_s
        while (message := self._next()) is not None:
            fate = self._try(message)
            if fate is None and self._now_ms() - message.at_ms > self._give_up_ms:
                fate = "given_up"
            if fate is not None:
                self._done(message, fate)
            if fate is None:
                with self._news:
                    self._news.wait_for(lambda: self._closing, backoff_s)
                backoff_s = min(2 * backoff_s, self._last_backoff_s)
            else:
                backoff_s = self._first_backoff_s
        if self._client is not None:
            self._client.close()

    def _next(self) -> Message | None:
        """The oldest that waits; blocks until there is one. None: close."""
        with self._news:
            self._news.wait_for(lambda: self._closing or self._waiting)
            return None if self._closing else self._waiting[0]

    def _try(self, message: Message) -> str | None:
        """What became of it, None: try again."""
        try:
            body = self._form(message)
            headers = {"Content-Type": "application/json", "User-Agent": "online-draft"}
            if self._secret:
                headers[SIGNATURE] = signature(self._secret, body)
            if self._client is None:
                self._client = httpx.Client(timeout=self._timeout_s)
            # What the receiver says beside its status is of no interest.
            with self._client.stream("POST", self._url, content=body, headers=headers) as answer:
                status = answer.status_code
        except Exception as error:  # whose message may hold the URL
            self._note(f"no answer: {type(error).__name__}")
            return None
        if 200 <= status < 300:
            self._trouble = ""
            return "sent"
        self._note(f"it answers with status {status}")
        return None if status >= 500 or status in _WORTH_ANOTHER_TRY else "refused"

    def _note(self, trouble: str) -> None:
        if not self._trouble:
            logger.warning("the webhook %s takes no messages: %s", self.name, trouble)
        self._trouble = trouble

    def _done(self, message: Message, fate: str) -> None:
        with self._news:
            self._counts[fate] += 1
            if self._waiting and self._waiting[0] is message:  # else it was dropped meanwhile
                self._waiting.popleft()
