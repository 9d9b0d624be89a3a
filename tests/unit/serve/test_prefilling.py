"""Prefills for the learner on a real engine's thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.models.config import TargetConfig
from online_draft.models.loading import random_target
from online_draft.serve.engine_thread import EngineThread
from online_draft.serve.prefilling import FeaturePrefill
from online_draft.training.prefill_order import PrefillOrder, PrefillReply

TOKENS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 0, 0]])
LENGTHS = torch.tensor([5, 3])


class Replica:
    """As `serve.replica.Replica` makes features."""

    def __init__(self, loaded: Any) -> None:
        self.loaded = loaded
        self.engine = EngineThread(lambda: Engine(loaded, EngineConfig(max_sequences=4, kernels="off")))
        self.engine.start(60)

    def work(self, order: PrefillOrder) -> FeaturePrefill:
        work = FeaturePrefill(order, lambda: self.loaded, "one")
        self.engine.when_idle(work)
        return work

    def __call__(self, order: PrefillOrder) -> PrefillReply:
        return self.work(order).reply.result(30)


@pytest.fixture
def replica(traffic: Any) -> Iterator[Replica]:
    made = Replica(traffic.loaded)
    yield made
    made.engine.close()


def order_for(replica: Replica, **more: Any) -> PrefillOrder:
    return PrefillOrder.of(replica.loaded.fingerprint, TOKENS, LENGTHS, **more)


@torch.no_grad()
def test_it_makes_what_the_target_makes_at_once(replica: Replica) -> None:
    first = torch.tensor([[0, 0, 0, 3, 3], [0, 0, 0, 3, 4]])
    for more in ({}, {"layers": (2, 1)}, {"first_BT": first}):
        order = order_for(replica, **more)
        reply = replica(order)
        assert (reply.outcome, reply.target, reply.replica) == ("made", replica.loaded.fingerprint, "one")
        expected = replica.loaded.target.prefill_hidden(TOKENS, LENGTHS, **more)
        assert torch.equal(reply.hidden(order), expected)
        assert reply.rows is not None and reply.rows.nbytes == 8 * expected.shape[-1] * 4, "padding was sent"
        assert reply.slice_ms > 0


def test_a_busy_replica_says_so(replica: Replica) -> None:
    held = threading.Event()
    replica.engine.call(lambda _: held.wait(10))
    replica.engine.call(lambda _: None)
    reply = replica(order_for(replica))
    held.set()
    assert (reply.outcome, reply.rows) == ("busy", None)
    replica.engine.call(lambda _: None).result(10)
    assert replica(order_for(replica)).outcome == "made"


def test_orders_for_another_target_are_refused_also_on_the_way(replica: Replica) -> None:
    assert replica(replace(order_for(replica), target="other")).outcome == "another target"
    work = FeaturePrefill(order_for(replica), lambda: replica.loaded)
    assert not work.advance()
    replica.loaded = replace(replica.loaded, fingerprint="updated")
    assert work.advance()
    work.finish()
    reply = work.reply.result(0)
    assert (reply.outcome, reply.target, reply.rows) == ("another target", "updated", None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tokens_BT": np.full((2, 5), 64, np.int32)}, "token ids must lie between 0 and 63"),
        ({"tokens_BT": np.full((2, 5), -1, np.int32)}, "token ids"),
        ({"tokens_BT": np.zeros((2, 600), np.int32)}, "positions must lie between 0 and"),
        ({"first_BT": np.full((2, 5), 3, np.int32)}, "positions"),
        ({"lengths_B": np.ones(3, np.int32)}, "rows and lengths"),
        ({"layers": (9,)}, "feature_layers"),
    ],
)
def test_an_order_that_makes_no_sense_harms_nobody(
    replica: Replica, change: dict[str, Any], reason: str
) -> None:
    reply = replica(replace(order_for(replica), **change))
    assert reply.outcome == "failed" and reason in reply.reason
    replica.engine.check()
    assert replica(order_for(replica)).outcome == "made"


def test_half_precision_travels_as_it_is(traffic: Any) -> None:
    target = random_target(TargetConfig.tiny("llama", False, 64), 0, torch.bfloat16)
    replica = Replica(replace(traffic.loaded, target=target))
    order = order_for(replica)
    reply = replica(order)
    replica.engine.close()
    assert reply.rows is not None and reply.rows.nbytes == 8 * target.config.hidden_size * 2
    with torch.no_grad():
        assert torch.equal(reply.hidden(order), target.prefill_hidden(TOKENS, LENGTHS))
