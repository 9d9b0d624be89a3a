"""A learner whose features are made by replicas, which here are plain functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from online_draft.learner.features.replicas import ReplicaFeatures
from online_draft.models.head import TargetHead
from online_draft.training.prefill_order import PrefillOrder, PrefillReply


class Replicas:
    """One that makes what the whole target makes, unless it is busy."""

    def __init__(self, loaded: Any) -> None:
        self.loaded = loaded
        self.busy = False
        self.made = 0

    def __call__(self, order: PrefillOrder, avoid: Sequence[str]) -> PrefillReply:
        if self.busy or order.target != self.loaded.fingerprint:
            outcome: Any = "busy" if self.busy else "another target"
            return PrefillReply(outcome, self.loaded.fingerprint, "one")
        self.made += 1
        with torch.inference_mode():
            hidden_BTX = self.loaded.target.prefill_hidden(*order.arguments(torch.device("cpu")))
            packed = PrefillReply.packed(hidden_BTX, order)
        return PrefillReply("made", order.target, "one", slice_ms=1.0, **packed)


def with_head(service: Any) -> Replicas:
    """The service's learner holds the head alone from now on."""
    whole = service.traffic.loaded
    replicas = Replicas(whole)
    source = ReplicaFeatures(replicas)
    source.target = whole.fingerprint
    head = TargetHead(source, whole.config)
    for name, weight in head.named_parameters():
        weight.copy_(whole.target.get_parameter(name))
    service.traffic = replace(service.traffic, loaded=replace(whole, target=head))
    return replicas


def test_it_says_that_it_waits_while_no_replica_is_idle_and_goes_on_then(service: Any) -> None:
    service.serve()
    replicas = with_head(service)
    loop = service.learner()
    service.run(loop, lambda: loop.status()["slices"] >= 3)
    replicas.busy = True
    waits = ("waiting", "no replica is idle")
    service.run(loop, lambda: (loop.status()["state"], loop.status()["reason"]) == waits)
    before = loop.status()
    assert loop.tick() > 0 and loop.status()["slices"] == before["slices"]
    replicas.busy = False
    service.run(loop, lambda: loop.status()["slices"] > before["slices"])
    features = loop.status()["features"]
    assert features["from"] == "replica" and features["orders"] == replicas.made > 0 < features["busy"]
    assert service.traffic.loaded.target.decoder_layers == []


def test_a_look_goes_on_where_features_ended(service: Any) -> None:
    service.serve()
    replicas = with_head(service)
    loop = service.learner()
    service.run(loop, lambda: loop._examiner.busy)
    looks = loop.status()["looks"]
    replicas.busy = True
    service.run(loop, lambda: loop.status()["state"] == "waiting")
    assert loop._examiner.busy and loop.status()["looks"] == looks
    replicas.busy = False
    service.run(loop, lambda: loop.status()["looks"] > looks or service.state.candidate)
