"""Where ingresses connect to a replica. Ray tells them where, with a token; outputs don't go through Ray."""

from __future__ import annotations

import asyncio
import logging
import secrets

import msgspec

from online_draft.serve.fleet.channel import Channel
from online_draft.serve.fleet.messages import Address, Uplink
from online_draft.serve.fleet.wire import Wire, WireError, tls

logger = logging.getLogger(__name__)

HELLO_S = 10.0
"""How long a connection may take to show its token."""
HELLO_BYTES = 256
_token = msgspec.msgpack.Decoder(str)
_uplink = msgspec.msgpack.Decoder(Uplink)


class ChannelPort:
    """Accepts one connection for each channel that is expected. Lives on one event loop."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._server: asyncio.Server | None = None
        self._starting = asyncio.Lock()
        self._expected: dict[str, Channel] = {}
        self._connected: dict[asyncio.Task[None], Channel | None] = {}

    async def expect(self, channel: Channel) -> Address:
        """Let one ingress connect to a channel, with the address's token, as long as it isn't closed."""
        async with self._starting:
            if self._server is None:
                self._server = await asyncio.start_server(self._welcome, self._host, 0, ssl=tls(server=True))
        self._expected = {token: known for token, known in self._expected.items() if not known.closed}
        token = secrets.token_urlsafe(32)
        self._expected[token] = channel
        return Address(self._host, self._server.sockets[0].getsockname()[1], token)

    def close(self) -> None:
        """Accept nobody any more, and end what is connected. Idempotent."""
        if self._server is not None:
            self._server.close()
        for task, channel in self._connected.items():
            if channel is None:
                task.cancel()
            else:
                channel.close()

    async def wait_closed(self) -> None:
        """Until all connections have ended."""
        await asyncio.gather(*self._connected, return_exceptions=True)

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(Wire(reader, writer)))
        self._connected[task] = None
        task.add_done_callback(self._connected.pop)

    async def _serve(self, wire: Wire) -> None:
        try:
            async with asyncio.timeout(HELLO_S):
                token = await wire.receive(_token, HELLO_BYTES)
            channel = self._expected.pop(token or "", None)
            if channel is None:
                logger.warning("a connection without a valid token was refused")
                return
            task = asyncio.current_task()
            assert task is not None
            self._connected[task] = channel
            try:
                await _converse(channel, wire)
            finally:
                channel.close()
        except (OSError, TimeoutError, WireError) as error:
            logger.info("a connection ended: %s", error)
        finally:
            wire.close()


async def _converse(channel: Channel, wire: Wire) -> None:
    """Until the channel is closed or the ingress is gone."""

    async def listen() -> None:
        while (message := await wire.receive(_uplink)) is not None:
            channel.up(message)

    async def speak() -> None:
        async for message in channel.down():
            await wire.send(message)

    tasks = [asyncio.create_task(each) for each in (listen(), speak(), channel.wait_closed())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        wire.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
