"""Features that replicas make: the same as the learner's own, in parts, and from whoever has time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.learner.config import LearnerConfig
from online_draft.learner.features.replicas import LEAST_TOKENS, MOST_TOKENS, FeaturesAway, ReplicaFeatures
from online_draft.learner.idle.pacer import Pacer
from online_draft.learner.judge.gate import Evaluation
from online_draft.learner.student import Student
from online_draft.models.head import TargetHead
from online_draft.models.loading import LoadedTarget, random_target
from online_draft.models.target import Target
from online_draft.serve.engine_thread import EngineThread
from online_draft.serve.prefilling import FeaturePrefill
from online_draft.training.drift import output_entropies
from online_draft.training.features import extract
from online_draft.training.prefill_order import PrefillOrder, PrefillReply

CONFIG = LearnerConfig(learning_rate=3e-3, warmup_steps=5)


class Replicas:
    """Replicas in plain Python: each makes what the target makes, or is busy."""

    def __init__(self, target: Target, names: Sequence[str] = ("a",)) -> None:
        self.target = target
        self.names = names
        self.busy: set[str] = set()
        self.orders: list[PrefillOrder] = []
        self.asked: list[str] = []
        self.slice_ms = 1.0
        self.change: Callable[[PrefillReply], PrefillReply] = lambda reply: reply

    def __call__(self, order: PrefillOrder, avoid: Sequence[str]) -> PrefillReply:
        name = next((name for name in self.names if name not in avoid), self.names[0])
        self.asked.append(name)
        if name in self.busy:
            return PrefillReply("busy", order.target, name)
        self.orders.append(order)
        with torch.inference_mode():
            hidden_BTX = self.target.prefill_hidden(*order.arguments(self.target.device))
            made = PrefillReply.packed(hidden_BTX, order)
        return self.change(PrefillReply("made", order.target, name, slice_ms=self.slice_ms, **made))


def batch(rows: int = 6, width: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(64, (rows, width), generator=generator)
    lengths_B = torch.tensor([width - 5 * (row % 3) for row in range(rows)])
    return tokens_BT, lengths_B


@torch.no_grad()
def test_a_batch_is_ordered_in_parts_and_put_together_again(traffic: Any) -> None:
    target = traffic.loaded.target
    replicas = Replicas(target)
    source = ReplicaFeatures(replicas)
    tokens_BT, lengths_B = batch()
    first_BT = torch.arange(40).repeat(6, 1) // 20 * 20
    for layers, first in (((), None), ((1, 2), None), ((), first_BT)):
        replicas.orders.clear()
        found = source.prefill_hidden(tokens_BT, lengths_B, layers, first)
        expected = target.prefill_hidden(tokens_BT, lengths_B, layers, first)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert sum(len(order.lengths_B) for order in replicas.orders) == 6
    assert len(replicas.orders) < 3, "parts grow while slices are short"
    status = source.status()
    assert status["tokens"] == 3 * int(lengths_B.sum())
    assert status["bytes"] == 5 * int(lengths_B.sum()) * target.config.hidden_size * 4


def test_parts_stay_as_small_as_slices_must_be_short(traffic: Any) -> None:
    replicas = Replicas(traffic.loaded.target)
    source = ReplicaFeatures(replicas, slice_ms=10)
    tokens_BT, lengths_B = batch(60)
    source.prefill_hidden(tokens_BT, lengths_B)
    assert max(order.positions for order in replicas.orders) <= MOST_TOKENS
    assert replicas.orders[0].positions <= LEAST_TOKENS < replicas.orders[-2].positions
    replicas.slice_ms = 100.0
    source.prefill_hidden(tokens_BT, lengths_B)
    assert replicas.orders[-2].positions <= LEAST_TOKENS


def test_another_replica_is_asked_when_one_is_busy(traffic: Any) -> None:
    replicas = Replicas(traffic.loaded.target, "abc")
    replicas.busy = {"a", "b"}
    source = ReplicaFeatures(replicas)
    source.prefill_hidden(*batch(1))
    assert replicas.asked == ["a", "b", "c"]
    replicas.busy.add("c")
    with pytest.raises(FeaturesAway, match="no replica is idle"):
        source.prefill_hidden(*batch(1))
    assert source.status()["busy"] == 2 + 4, "all three, and one more to know that there is no other"


def test_what_was_made_before_replicas_got_busy_is_not_made_again(traffic: Any) -> None:
    target = traffic.loaded.target
    replicas = Replicas(target)
    source = ReplicaFeatures(replicas)

    def busy_now(reply: PrefillReply) -> PrefillReply:
        replicas.busy = {"a"}
        return reply

    replicas.change = busy_now
    tokens_BT, lengths_B = batch()
    for _ in range(2):  # each time one part
        replicas.busy = set()
        with pytest.raises(FeaturesAway):
            source.prefill_hidden(tokens_BT, lengths_B)
    replicas.busy, replicas.change = set(), lambda reply: reply
    found = source.prefill_hidden(tokens_BT, lengths_B)
    assert sum(len(order.lengths_B) for order in replicas.orders) == 6
    with torch.no_grad():
        expected = target.prefill_hidden(tokens_BT, lengths_B)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_batch_ends_between_two_parts_when_there_is_no_time(traffic: Any) -> None:
    replicas = Replicas(traffic.loaded.target)
    source = ReplicaFeatures(replicas)
    source.interrupted = lambda: len(replicas.orders) == 2
    with pytest.raises(FeaturesAway, match="a request came"):
        source.prefill_hidden(*batch())
    assert len(replicas.orders) == 2
    source.interrupted = lambda: False
    source.prefill_hidden(*batch())
    assert sum(len(order.lengths_B) for order in replicas.orders) == 6


def test_parts_of_a_former_batch_or_target_and_forgotten_ones_are_of_no_use(traffic: Any) -> None:
    replicas = Replicas(traffic.loaded.target)
    source = ReplicaFeatures(replicas)
    tokens_BT, lengths_B = batch(60)

    def busy_now(reply: PrefillReply) -> PrefillReply:
        replicas.busy = {"a"}
        return reply

    def begin() -> None:
        replicas.change = busy_now
        with pytest.raises(FeaturesAway):
            source.prefill_hidden(tokens_BT, lengths_B)
        replicas.busy, replicas.change = set(), lambda reply: reply
        replicas.orders.clear()

    begin()
    source.prefill_hidden(tokens_BT.flip(0), lengths_B.flip(0))
    assert sum(len(order.lengths_B) for order in replicas.orders) == 60
    begin()
    source.forget()
    source.prefill_hidden(tokens_BT, lengths_B)
    assert sum(len(order.lengths_B) for order in replicas.orders) == 60
    begin()
    source.target = "updated"
    source.prefill_hidden(tokens_BT, lengths_B)
    assert sum(len(order.lengths_B) for order in replicas.orders) == 60


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": "other"}, "serve another target, other"),
        ({"outcome": "another target", "target": "other"}, "serve another target, other"),
        ({"outcome": "failed", "reason": "OutOfMemoryError"}, "can't make features: OutOfMemoryError"),
        ({"rows": None}, "of no use"),
        ({"dtype": "uint8"}, "of no use"),
        ({"dtype": "__version__"}, "of no use"),
    ],
)
def test_features_of_another_target_and_what_is_not_readable_are_refused(
    traffic: Any, change: dict[str, Any], words: str
) -> None:
    replicas = Replicas(traffic.loaded.target)
    replicas.change = lambda reply: replace(reply, **change)
    with pytest.raises(FeaturesAway, match=words):
        ReplicaFeatures(replicas).prefill_hidden(*batch(1))


def head_of(whole: LoadedTarget, source: ReplicaFeatures) -> TargetHead:
    """What `load_target(make=...)` gives."""
    head = TargetHead(source, whole.config, whole.target.dtype)
    for name, weight in head.named_parameters():
        weight.copy_(whole.target.get_parameter(name))
    return head


def test_the_learner_learns_and_judges_alike_with_either(traffic: Any) -> None:
    """In float64, with the features of a real engine's thread: the student, the gate's replay, and what the
    drift meter asks."""
    exact = random_target(traffic.loaded.config, 0, torch.float64, logit_scale=4.0)
    loaded = replace(traffic.loaded, target=exact)
    traffic = replace(traffic, loaded=loaded)
    engine = EngineThread(lambda: Engine(loaded, EngineConfig(max_sequences=4, kernels="off")))
    engine.start(60)

    def call(order: PrefillOrder, avoid: Sequence[str]) -> PrefillReply:
        work = FeaturePrefill(order, lambda: loaded)
        engine.when_idle(work)
        return work.reply.result(30)

    source = ReplicaFeatures(call)
    source.target = loaded.fingerprint
    head = head_of(loaded, source)
    assert head.decoder_layers == [] and {name for name, _ in head.named_parameters()} == {
        "embedding",
        "norm",
        "lm_head",
    }
    records = traffic.interactions(40)
    losses: dict[str, list[float]] = {}
    weights, replays, entropies = {}, {}, {}
    for name, target in (("local", exact), ("replica", head)):
        student = Student(target, CONFIG)
        student.follow("v0", traffic.drafter())
        losses[name] = [student.slice(records[8 * i : 8 * i + 8]).loss for i in range(4)]
        weights[name] = dict(student.candidate().named_parameters())
        judged = Evaluation(student.candidate(), student.champion, target, records[32:], 8, {})
        assert judged.advance(8)
        replays[name] = judged.candidate_results, judged.champion_results
        entropies[name] = output_entropies(target, extract(target, records[32:]))
    engine.close()
    assert source.status()["busy"] == source.status()["failed"] == 0 < source.status()["orders"]
    assert losses["replica"] == pytest.approx(losses["local"], abs=1e-12)
    for name, weight in weights["local"].items():
        torch.testing.assert_close(weights["replica"][name], weight, rtol=0, atol=1e-9)
    assert replays["replica"] == replays["local"]
    for ours, theirs in zip(entropies["replica"], entropies["local"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-9)


def test_a_slice_without_features_changes_nothing(traffic: Any) -> None:
    replicas = Replicas(traffic.loaded.target)
    student = Student(head_of(traffic.loaded, ReplicaFeatures(replicas)), CONFIG)
    student.follow("v0", traffic.drafter())
    before = student.to_bytes()
    records, pacer = traffic.interactions(8), Pacer(200, 8)
    replicas.busy = {"a"}
    with pytest.raises(FeaturesAway), pacer:
        student.slice(records)
    assert student.to_bytes() == before and pacer.batch == 1
    replicas.busy = set()
    assert student.slice(records).updated


def test_its_source_can_be_any(traffic: Any) -> None:
    """The seam is one method, which a target has."""
    head = TargetHead(traffic.loaded.target, traffic.loaded.config)
    tokens_BT, lengths_B = batch(2)
    with torch.no_grad():
        expected = traffic.loaded.target.prefill_hidden(tokens_BT, lengths_B)
        assert torch.equal(head.prefill_hidden(tokens_BT, lengths_B), expected)
