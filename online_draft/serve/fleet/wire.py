"""A connection between an ingress and a replica: messages as msgpack, each behind its length."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from online_draft.errors import OnlineDraftError

T = TypeVar("T")

LARGEST = 256 * 1024 * 1024
"""Bytes of one message; an ingress bounds bodies and contexts far below."""
_LENGTH_BYTES = 4
_encoder = msgspec.msgpack.Encoder()


class WireError(OnlineDraftError):
    """What came over a connection is no message."""


class Wire:
    """One end of a connection. `send` and `receive` may run side by side, on its event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, host: str, port: int) -> Wire:
        """The connecting end. OSError when nobody listens there."""
        return cls(*await asyncio.open_connection(host, port, ssl=tls(server=False)))

    async def send(self, message: object) -> None:
        """Send a dataclass or a string; waits while the other end is behind. OSError when it is gone."""
        body = _encoder.encode(message)
        self._writer.write(len(body).to_bytes(_LENGTH_BYTES, "big") + body)
        await self._writer.drain()

    async def receive(self, decoder: msgspec.msgpack.Decoder[T], largest: int = LARGEST) -> T | None:
        """The next message; None at the end. WireError for what isn't one of this kind."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
            if length > largest:
                raise WireError(f"a message of {length} bytes, at most {largest} are accepted")
            return decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError):
            return None
        except msgspec.MsgspecError as error:
            raise WireError(f"not a message: {error}") from error

    def close(self) -> None:
        """End it, whatever is still to be written. Idempotent."""
        self._writer.transport.abort()


def tls(server: bool, environ: Mapping[str, str] = os.environ) -> ssl.SSLContext | None:
    """Ray's own certificates where Ray encrypts what goes between nodes (`RAY_USE_TLS`), else None: both
    ends must have one of that authority."""
    if environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(environ["RAY_TLS_CA_CERT"])
    context.load_cert_chain(environ["RAY_TLS_SERVER_CERT"], environ["RAY_TLS_SERVER_KEY"])
    return context
