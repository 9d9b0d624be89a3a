"""A socket that outlives those who accept from it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from online_draft.errors import ConfigError, LaunchError
from online_draft.launch.front_door import FrontDoor
from online_draft.launch.ports import free_port
from online_draft.serve.bounded_http import BoundedHttp
from online_draft.serve.config import ListenConfig
from online_draft.serve.listener import Listener


def app_of(name: str, held: asyncio.Event | None = None) -> FastAPI:
    app = FastAPI()

    @app.get("/name")
    async def who() -> str:
        return name

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts():  # type: ignore[no-untyped-def]
            yield "begun "
            assert held is not None
            await held.wait()
            yield "and ended"

        return StreamingResponse(parts())

    return app


async def test_connections_wait_for_the_next_ingress_and_streams_end_with_the_old_one(tmp_path: Path) -> None:
    port = free_port()
    door = FrontDoor("127.0.0.1", port, tmp_path / "door")
    door.open()
    config, held = ListenConfig(str(door.path)), asyncio.Event()
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20, limits=limits
    ) as http:
        first = Listener(app_of("first", held), config, 20.0)
        first.start()
        assert (await http.get("/name")).json() == "first"
        async with http.stream("GET", "/stream") as response:
            parts = response.aiter_text()
            assert await anext(parts) == "begun "
            ending = asyncio.create_task(first.end())
            await asyncio.sleep(0.3)
            waiting = asyncio.create_task(http.get("/name"))  # nobody accepts it now
            await asyncio.sleep(0.2)
            assert not waiting.done() and not ending.done()
            second = Listener(app_of("second"), config, 20.0)
            second.start()
            assert (await waiting).json() == "second"
            held.set()
            assert await anext(parts) == "and ended"
        await ending
        assert not first.alive and second.alive
        await second.end()
    door.close()
    door.close()


async def test_slow_and_endless_headers_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedHttp, "headers_s", 0.5)
    port = free_port()
    door = FrontDoor("127.0.0.1", port, tmp_path / "door")
    door.open()
    listener = Listener(app_of("here"), ListenConfig(str(door.path)), 5.0)
    listener.start()

    async def send(*parts: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()

    begun = b"GET /name HTTP/1.1\r\nHost: x\r\n"
    assert await send(begun, b"X-") == b""
    assert await send(begun + b"\r\n" + begun) != b""  # a whole request, then half of one
    endless = await send(begun, *[b"X-Filler: " + b"a" * 8192 + b"\r\n"] * 9)
    assert endless.startswith(b"HTTP/1.1 400") and b"larger than" in endless
    whole = await send(begun + b"Connection: close\r\n\r\n")
    assert whole.startswith(b"HTTP/1.1 200") and whole.endswith(b'"here"')
    await listener.end()
    door.close()


def test_a_taken_port_and_a_missing_door_are_named(tmp_path: Path) -> None:
    port = free_port()
    door = FrontDoor("127.0.0.1", port, tmp_path / "door")
    door.open()
    with pytest.raises(ConfigError, match="port"):
        FrontDoor("127.0.0.1", port, tmp_path / "other").open()
    door.close()
    with pytest.raises(LaunchError, match="hands out no socket"):
        Listener(app_of("x"), ListenConfig(str(tmp_path / "nowhere")), 1.0)
