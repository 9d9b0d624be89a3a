"""What goes over a connection comes out the same; what isn't a message is refused."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from online_draft.core import (
    GenerationRequest,
    SamplingParams,
    SpeculationCounts,
    StepOutput,
    TokenLogprobs,
)
from online_draft.errors import CapacityError, EngineDead, OnlineDraftError, RequestError
from online_draft.serve.fleet.channel import Channel
from online_draft.serve.fleet.messages import Address, Downlink, Order, Refusal, ReplicaLoad, Uplink
from online_draft.serve.fleet.port import ChannelPort
from online_draft.serve.fleet.wire import Wire, WireError, tls

DOWN = msgspec.msgpack.Decoder(Downlink)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Wire, Wire]]:
    """Two ends."""
    accepted: asyncio.Future[Wire] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(
        lambda reader, writer: accepted.set_result(Wire(reader, writer)), "127.0.0.1", 0, ssl=tls(server=True)
    )
    one = await Wire.connect("127.0.0.1", server.sockets[0].getsockname()[1])
    other = await accepted
    try:
        yield one, other
    finally:
        one.close()
        other.close()
        server.close()
        await asyncio.sleep(0)


def everything() -> tuple[Uplink, Downlink]:
    counts = SpeculationCounts()
    counts.record(3, 5, 2, 4)
    entry = TokenLogprobs(3, -0.25, 1, ((3, -0.25), (9, -2.5)))
    sampling = SamplingParams(
        temperature=0.7,
        stop=("end", "é"),
        stop_token_ids=(7,),
        logit_bias=((3, -1.5),),
        logprobs=2,
        seed=2**52,
    )
    request = GenerationRequest("a", (1, 2**31), sampling, (4,), session="s", deadline_s=1.5, tenant="t")
    plain = StepOutput("a", (1, 2), "text \U0001f600")
    versions = ((None, counts), ("v1", counts))
    full = StepOutput(
        "b", (3,), "", "stop", counts, "v1", None, (entry,), (None, entry), versions, "t", (5, 2)
    )
    refusal = Refusal.of("c", RequestError("wrong", "prompt", "bad"))
    return (
        Uplink((Order(request, (1,), False), Order(GenerationRequest("d", ()))), ("x", "y")),
        Downlink((plain, full), (refusal,), ReplicaLoad(1, 2, 3, 4, 0.5, "llama-x")),
    )


async def test_messages_come_out_as_they_went_in() -> None:
    up, down = everything()
    async with connected() as (one, other):
        await one.send(up)
        await other.send(down)
        await other.send(down)
        assert await other.receive(msgspec.msgpack.Decoder(Uplink)) == up
        assert [await one.receive(DOWN), await one.receive(DOWN)] == [down, down]
        other.close()
        assert await one.receive(DOWN) is None


@pytest.mark.parametrize(
    "error",
    [
        CapacityError("full", 7),
        RequestError("wrong", "prompt", "bad"),
        EngineDead("gone"),
        OnlineDraftError("odd"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_the_same_at_the_other_end(error: OnlineDraftError) -> None:
    found = Refusal.of("a", error).error
    assert type(found) is type(error) and str(found) == str(error)
    assert vars(found) == vars(error)


async def test_what_is_no_message_is_refused() -> None:
    async with connected() as (one, other):
        await one.send({"steps": 3})
        with pytest.raises(WireError, match="not a message"):
            await other.receive(DOWN)
    async with connected() as (one, other):
        await one.send("x" * 1000)
        with pytest.raises(WireError, match="1003 bytes"):
            await other.receive(msgspec.msgpack.Decoder(str), 100)


def channel() -> Channel:
    return Channel(lambda order, to: None, lambda name, to: None, lambda text, last: None, ReplicaLoad)


async def test_a_channel_is_for_whoever_has_its_token_and_once() -> None:
    port = ChannelPort("127.0.0.1")
    expected = channel()
    address = await port.expect(expected)

    async def knock(token: str) -> tuple[Wire, Downlink | None]:
        wire = await Wire.connect(address.host, address.port)
        await wire.send(token)
        async with asyncio.timeout(10):
            return wire, await wire.receive(DOWN)

    wire, first = await knock(address.token)
    assert first is not None and first.steps == () and not expected.closed
    for token in ("", "wrong", "x" * 10_000, address.token):
        other, answer = await knock(token)
        assert answer is None
        other.close()
    wire.close()
    await asyncio.wait_for(expected.wait_closed(), 10)
    port.close()
    await port.wait_closed()


async def test_an_ingress_that_reads_no_more_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection's buffers are full: outputs wait in the channel until the lease ends it."""
    port = ChannelPort("127.0.0.1")
    stuck = channel()
    address: Address = await port.expect(stuck)
    reader, writer = await asyncio.open_connection(address.host, address.port, limit=1024)
    Wire(reader, writer)
    body = msgspec.msgpack.encode(address.token)
    writer.write(len(body).to_bytes(4, "big") + body)
    await reader.readexactly(4)
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    stuck.up(Uplink((Order(GenerationRequest("a", (1,))),)))
    for _ in range(200):
        stuck.take("a", StepOutput("a", (1,), "x" * 100_000))
        await asyncio.sleep(0)
    assert stuck.requests == 1
    stuck.close()
    port.close()
    await asyncio.wait_for(port.wait_closed(), 10)
    writer.transport.abort()
    await asyncio.sleep(0)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
async def test_rays_certificates_are_used_where_ray_uses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ours", "strange"):
        subject = ["-subj", f"/CN={name}", "-days", "2", "-nodes", "-newkey", "rsa:2048"]
        files = ["-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.crt")]
        subprocess.run(
            ["openssl", "req", "-x509", *subject, *files], check=True, capture_output=True, timeout=60
        )

    def use(name: str) -> None:
        monkeypatch.setenv("RAY_USE_TLS", "1")
        monkeypatch.setenv("RAY_TLS_CA_CERT", str(tmp_path / f"{name}.crt"))
        monkeypatch.setenv("RAY_TLS_SERVER_CERT", str(tmp_path / f"{name}.crt"))
        monkeypatch.setenv("RAY_TLS_SERVER_KEY", str(tmp_path / f"{name}.key"))

    use("ours")
    port = ChannelPort("127.0.0.1")
    address = await port.expect(channel())
    wire = await Wire.connect(address.host, address.port)
    await wire.send(address.token)
    assert await wire.receive(DOWN) is not None
    wire.close()
    use("strange")
    with pytest.raises(OSError, match="certificate"):
        await Wire.connect(address.host, address.port)
    port.close()
    await port.wait_closed()
