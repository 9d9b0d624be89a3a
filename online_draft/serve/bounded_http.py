"""Bounds on what a client may make a connection wait for before its request is there at all."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_S = 30.0
"""Headers that aren't complete so long after the connection, or the request, has begun end it."""
MAX_HEADER_BYTES = 64 * 1024


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol with a bound on the time and the bytes of a request's headers."""

    headers_s = HEADERS_S
    _waiting: asyncio.TimerHandle | None = None
    _received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for headers from now on."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Refuse headers that go on and on."""
        super().data_received(data)
        if self._waiting is not None:
            self._received += len(data)
            if self._received > MAX_HEADER_BYTES and not self.transport.is_closing():
                self.send_400_response(f"The headers are larger than {MAX_HEADER_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """Another request on the same connection begins."""
        super().on_message_begin()
        if self._waiting is None:
            self._wait()

    def on_headers_complete(self) -> None:
        """What follows is bounded by the application."""
        self._wait_no_more()
        super().on_headers_complete()

    def _wait(self) -> None:
        self._received = 0
        self._waiting = self.loop.call_later(self.headers_s, self._too_late)

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _too_late(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
