"""Quick steps share a message; what a client waits for goes at once."""

from __future__ import annotations

import asyncio

import pytest

from online_draft.core import GenerationRequest, StepOutput
from online_draft.serve.fleet import channel as channel_module
from online_draft.serve.fleet.channel import Channel
from online_draft.serve.fleet.messages import Order, ReplicaLoad, Uplink


async def test_first_and_last_outputs_go_at_once_and_those_between_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channel_module, "SPACING_S", 30.0)
    channel = Channel(lambda order, to: None, lambda name, to: None, lambda text, last: None, ReplicaLoad)
    down = channel.down()
    await anext(down)
    channel.up(Uplink((Order(GenerationRequest("a", (1,))),)))
    channel.take("a", StepOutput("a", (1,), "one"))
    first = await asyncio.wait_for(anext(down), 10)
    assert [len(step.token_ids) for step in first.steps] == [1]
    waiting = asyncio.ensure_future(anext(down))
    for token in (2, 3):
        channel.take("a", StepOutput("a", (token,), "more"))
        await asyncio.sleep(0.02)
        assert not waiting.done()
    channel.take("a", StepOutput("a", (4,), "end", "stop"))
    assert len((await asyncio.wait_for(waiting, 10)).steps) == 3
    await down.aclose()
