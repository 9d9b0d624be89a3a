"""`bench churn`: clients that vanish, and how what is left is found."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from rich.console import Console

from online_draft.bench.churn import ChurnOptions
from online_draft.bench.churn.crowd import MOST_EVENTS, churn
from online_draft.bench.churn.holdings import Holding, holding, leaks, new_keys
from online_draft.bench.churn.report import print_report
from online_draft.errors import ConfigError


class Events(httpx.AsyncByteStream):
    """More events than anybody reads; `vanished` once its reader went away."""

    def __init__(self) -> None:
        self.sent = 0
        self.vanished = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.sent += 1
            yield b'data: {"choices": []}\n\n'

    async def aclose(self) -> None:
        self.vanished = True


async def test_clients_read_some_and_vanish_and_wait_when_turned_away() -> None:
    streams: list[Events] = []

    def serve(request: httpx.Request) -> httpx.Response:
        if b'"crowded"' in request.content:
            return httpx.Response(503, headers={"Retry-After": "1"})
        if b'"bare"' in request.content:
            return httpx.Response(503)
        if b'"broken"' in request.content:
            raise httpx.ReadError("broken")
        streams.append(Events())
        return httpx.Response(200, stream=streams[-1])

    def ask(rng: random.Random) -> dict[str, Any]:
        return {"prompt": rng.choice(["fine", "crowded", "bare", "broken"])}

    async with httpx.AsyncClient(transport=httpx.MockTransport(serve), base_url="http://test") as http:
        seen = await churn(http, ask, 4, 0.0, 40)
    assert set(seen) == {"200", "503", "503 bare", "ReadError"} and 40 <= seen.total() <= 44
    assert streams and all(stream.vanished and stream.sent <= MOST_EVENTS + 1 for stream in streams)


def test_what_grew_is_named() -> None:
    ours = holding(os.getpid())
    assert ours.memory > 1_000_000 and ours.files > 2
    before = {"replica": Holding(100, 10), "ingress": Holding(100, 10), "gone": Holding(1, 1)}
    after = {"replica": Holding(105, 14), "ingress": Holding(106, 15)}
    assert leaks(before, after) == [
        "ingress grew from 100 to 106 bytes", "ingress has 15 files open, had 10", "gone is gone",
    ]  # fmt: skip
    assert new_keys([b"od:a"], [b"od:a", b"od:b"]) == ["Redis key od:b was left"]


def test_the_report_prints_what_is_wrong() -> None:
    held = {"memory": 1_000_000, "files": 3}
    report = {
        "requests": 3, "outcomes": {"200": 2, "503": 1}, "before": {"replica": held},
        "after": {"replica": held}, "wrong": [],
    }  # fmt: skip
    console = Console(record=True, width=120)
    print_report(report, console)
    print_report({**report, "wrong": ["replica is gone"]}, console)
    told = console.export_text()
    assert "nothing is left" in told and "replica is gone" in told


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"minutes": 0}, "minutes"),
        ({"clients": 0}, "clients"),
        ({"queue": -1}, "queue"),
        ({"kernels": "x"}, "kernels"),
    ],
)
def test_options_name_what_is_wrong(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ChurnOptions(**wrong).check()
    assert refused.value.field == field
