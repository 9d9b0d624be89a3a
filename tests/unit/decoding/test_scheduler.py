"""Order, row budget, growth and preemption, on the scheduler alone: tokens are committed by hand."""

from __future__ import annotations

import pytest

from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.blocks import BlockPool
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.plan import StepPlan
from online_draft.decoding.policy.profile import StepProfile
from online_draft.decoding.scheduler import Scheduler
from online_draft.decoding.sequence import Sequence
from online_draft.errors import CapacityError, ConfigError


class Bench:
    """A scheduler whose steps give every sequence with a root one token."""

    def __init__(self, tokenizer, **sizes) -> None:
        sizes = {"block_size": 4, "tree_nodes": 3, "max_sequences": 8, "kv_tokens": 4000, **sizes}
        self.config = EngineConfig(**sizes)
        self.now = 0.0
        self.tokenizer = tokenizer
        self.pool = BlockPool(self.config.kv_tokens + self.config.block_size, self.config.block_size)
        self.scheduler = Scheduler(self.config, self.pool, lambda: self.now)

    def add(self, name: str, prompt: int = 5, max_tokens: int = 100, tokens=None, **fields) -> None:
        ids = tuple(tokens) if tokens is not None else tuple(ord(name[0]) + i for i in range(prompt))
        request = GenerationRequest(
            name, ids, SamplingParams(max_tokens=max_tokens, ignore_eos=True), **fields
        )
        self.scheduler.enqueue(Sequence(request, self.tokenizer, frozenset()))

    def step(self, nodes: int | None = None) -> StepPlan:
        self.scheduler.expire()
        plan = self.scheduler.plan(self.config.tree_nodes if nodes is None else nodes, 10**6)
        for sequence in (*plan.speculating, *plan.plain):
            assert len(sequence.kv_slots) >= sequence.length + 1
            if sequence in plan.speculating:
                assert len(sequence.kv_slots) >= len(sequence.tokens) + self.config.tree_nodes
            sequence.length += 1
            sequence.commit([sequence.generated % 200])
        for chunk in plan.chunks:
            last = chunk.last
            chunk.sequence.length += chunk.count
            if last:
                chunk.sequence.commit([7])
        for sequence in plan.sequences():
            self.scheduler.settle(sequence)
            if sequence.finish_reason is not None:
                self.scheduler.remove(sequence.request.request_id)
        self.scheduler.check_integrity()
        return plan

    def drain(self) -> list[str]:
        """Step until nothing is left; names in the order in which they were admitted."""
        order = []
        while self.scheduler.running + self.scheduler.waiting:
            order += names(self.step().admitted)
        assert self.pool.available == self.pool.usable
        return order


@pytest.fixture
def bench(byte_tokenizer):
    return lambda **sizes: Bench(byte_tokenizer, **sizes)


def names(sequences) -> list[str]:
    return [s.request.request_id for s in sequences]


def rows(plan: StepPlan, nodes: int) -> int:
    return len(plan.plain) + len(plan.speculating) * (1 + nodes) + sum(chunk.count for chunk in plan.chunks)


def test_lower_priority_first_then_first_come(bench) -> None:
    b = bench(max_sequences=1)
    for name, priority in (("a", 1), ("b", 0), ("c", 1), ("d", 0), ("e", -1)):
        b.add(name, priority=priority, max_tokens=2)
    assert b.drain() == ["e", "b", "d", "a", "c"]


def test_a_full_queue_refuses(bench) -> None:
    b = bench(max_sequences=1, max_queue=2)
    b.add("a")
    b.step()
    b.add("b")
    b.add("c")
    with pytest.raises(CapacityError, match="2 requests"):
        b.add("d")
    b.scheduler.remove("b")
    b.add("d")


@pytest.mark.parametrize(("slots", "queue"), [(1, 0), (3, 0), (1, 2), (4, 3)])
def test_a_burst_is_refused_where_neither_slots_nor_queue_hold_it(bench, slots: int, queue: int) -> None:
    """Whether some of it runs already makes no difference."""
    for running in range(slots + 1):
        b = bench(max_sequences=slots, max_queue=queue)
        for index in range(slots + queue):
            b.add(f"{index}")
            if index < running:
                b.step()
        with pytest.raises(CapacityError, match=f"{queue} requests"):
            b.add("one too many")
        b.scheduler.remove("0")
        b.add("one that fits")


def test_preempted_requests_wait_in_the_queue_too(bench) -> None:
    b = bench(max_sequences=2, max_queue=1, kv_tokens=64, tree_nodes=0)
    b.add("a", 20, 40)
    b.add("b", 20, 40)
    while not b.scheduler.waiting:
        b.step()
    b.add("c")
    with pytest.raises(CapacityError):
        b.add("d")


def test_several_prompts_share_a_step_and_long_ones_are_cut(bench) -> None:
    b = bench(prefill_rows=20, prefill_rows_busy=6)
    b.add("a", 8)
    b.add("b", 30)
    b.add("c", 5)
    plan = b.step()
    assert [(c.sequence.request.request_id, c.start, c.count) for c in plan.chunks] == [
        ("a", 0, 8),
        ("b", 0, 12),
    ]
    plan = b.step()
    assert names(plan.speculating) == ["a"]
    assert [(c.start, c.count) for c in plan.chunks] == [(12, 6)]
    assert b.scheduler.waiting == 1, "no row is left for c: it is not admitted before it can start"


def test_a_long_prompt_never_holds_up_a_stream_and_the_batch_stays_within_its_rows(bench) -> None:
    b = bench(max_sequences=4, step_rows=24, prefill_rows=64, prefill_rows_busy=16, tree_nodes=5)
    for name in "abc":
        b.add(name, 3, max_tokens=60)
    b.step()
    b.add("long", 200, max_tokens=4)
    for _ in range(10):
        plan = b.step()
        assert len(plan.speculating) + len(plan.plain) == 3
        assert sum(c.count for c in plan.chunks) >= b.config.block_size, "the prompt gets on"
        nodes = min(5, plan.node_budget // 3)
        assert rows(plan, nodes) <= 24
        assert nodes == 5 or plan.chunks


def test_the_more_rows_decode_the_more_prompt_rows_join_them(bench) -> None:
    b = bench(prefill_rows=20, prefill_rows_busy=6, tree_nodes=4, prefix_cache=False)
    taken = []
    for name in "abcdef":
        b.add(name, 1, max_tokens=99)
        plan = b.step()
        b.add("long", 60, max_tokens=1)
        plan = b.step()
        taken.append((len(plan.speculating), sum(c.count for c in plan.chunks)))
        b.scheduler.remove("long")
    assert taken == [(1, 6), (2, 10), (3, 15), (4, 20), (5, 20), (6, 20)]


def test_without_room_for_trees_all_decode_plainly(bench) -> None:
    b = bench(max_sequences=6, step_rows=7, prefill_rows=64)
    for name in "abcdef":
        b.add(name, 1)
    plan = b.step()
    while len(plan.speculating) + len(plan.plain) < 6:
        plan = b.step()
    assert not plan.speculating
    assert rows(plan, 0) == 6


def test_no_drafter_no_speculation(bench) -> None:
    b = bench()
    b.add("a")
    b.step()
    assert names(b.step(nodes=0).plain) == ["a"]
    assert names(b.step(nodes=2).speculating) == ["a"]


def test_blocks_are_taken_as_the_output_grows(bench) -> None:
    b = bench()
    b.add("a", 5, max_tokens=1000)
    b.step()
    held = [b.scheduler.stats().blocks_held]
    assert held == [2], "5 tokens and 3 tree rows"
    for _ in range(40):
        b.step()
        held.append(b.scheduler.stats().blocks_held)
    assert held == sorted(held)
    assert held[-1] == -(-(5 + 40 + 3) // 4)


def test_the_last_of_the_lowest_class_is_preempted_and_comes_back_first(bench) -> None:
    b = bench(kv_tokens=80, max_sequences=4)
    b.add("a", 8, 30)
    b.add("b", 8, 30, priority=1)
    b.add("c", 8, 30, priority=1)
    b.add("d", 8, 30)
    preempted = []
    b.step()
    before = set(names(b.scheduler._running.values()))
    assert before == set("abcd")
    order = []
    while b.scheduler.running + b.scheduler.waiting:
        plan = b.step()
        order += names(plan.admitted)
        after = set(names(b.scheduler._waiting))
        preempted += sorted(after - set(preempted))
    assert preempted[:2] == ["c", "b"]
    assert "a" not in preempted
    assert b.scheduler.stats().preemptions >= 2
    assert order.index("b") < order.index("c")
    assert b.pool.available == b.pool.usable


def test_a_preempted_request_waits_before_later_ones_of_its_class(bench) -> None:
    b = bench(kv_tokens=80, max_sequences=3)
    for name in "abc":
        b.add(name, 8, 26)
    b.step()
    b.add("later", 8, 4)
    while b.scheduler.waiting == 1:
        b.step()
    assert names(b.scheduler._waiting) == ["c", "later"]
    b.add("urgent", 8, 4, priority=-1)
    order = b.drain()
    assert order.index("urgent") < order.index("c") < order.index("later")


def test_a_resumed_request_finds_its_own_prefix(bench) -> None:
    b = bench(kv_tokens=120, max_sequences=2, prefix_recompute=1)
    b.add("a", 20, 45, priority=0)
    b.add("b", 40, 45, priority=1)
    for _ in range(35):
        b.step()
    assert b.scheduler.stats().preemptions == 1
    b.scheduler.remove("a")
    plan = b.step()
    assert names(plan.admitted) == ["b"]
    assert plan.admitted[0].cached >= 40
    b.drain()


def test_each_request_is_done_whatever_is_preempted(bench) -> None:
    b = bench(kv_tokens=60, max_sequences=8)
    for index in range(20):
        b.add(f"{index}", 1 + index % 9, 1 + 7 * index % 40, priority=index % 3)
    assert set(b.drain()) == {str(i) for i in range(20)}


def test_a_prefix_hit_leaves_the_configured_rows_to_compute(bench) -> None:
    for keep, cached in ((1, 16), (4, 16), (5, 12), (100, 0)):
        b = bench(prefix_recompute=keep)
        b.add("a", 20, 1)
        b.step()
        b.add("again", tokens=[ord("a") + i for i in range(20)])
        (sequence,) = b.step().admitted
        assert sequence.cached == cached
        assert b.scheduler.stats().hits == cached // 4


def test_without_speculation_one_row_is_enough(bench) -> None:
    b = bench(prefix_recompute=16)
    b.add("a", 20, 1)
    b.step()
    b.add("again", tokens=[ord("a") + i for i in range(20)], speculate=False)
    assert b.step().admitted[0].cached == 16


def test_tenants_and_other_prefixes_miss(bench) -> None:
    b = bench(prefix_recompute=1)
    b.add("a", 20, 1, tenant="one")
    b.step()
    prompt = [ord("a") + i for i in range(20)]
    for name, tokens, tenant in (("x", prompt, "two"), ("y", [0, *prompt[1:]], "one")):
        b.add(name, tokens=tokens, tenant=tenant, max_tokens=1)
        assert b.step().admitted[0].cached == 0
    b.add("z", tokens=[*prompt[:9], 0, *prompt[10:]], tenant="one", max_tokens=1)
    assert b.step().admitted[0].cached == 8
    assert b.scheduler.stats().hits == 2


def test_the_next_turn_finds_prompt_and_output(bench) -> None:
    b = bench(prefix_recompute=1)
    b.add("turn", 10, 20)
    b.step()
    sequence = b.scheduler._running["turn"]
    b.drain()
    b.add("next", tokens=[*sequence.tokens, 1, 2, 3])
    assert b.step().admitted[0].cached == 28, "29 of 30 tokens were in the cache"


def test_running_requests_share_their_prefix(bench) -> None:
    b = bench(prefix_recompute=1, kv_tokens=200)
    prompt = list(range(40))
    b.add("a", tokens=prompt)
    b.step()
    alone = b.scheduler.stats().blocks_held
    b.add("b", tokens=prompt)
    b.step()
    assert b.scheduler.stats().blocks_held == alone + 2
    b.scheduler.remove("a")
    b.scheduler.check_integrity()
    b.drain()


def test_the_cache_can_be_turned_off(bench) -> None:
    b = bench(prefix_cache=False)
    for name in ("a", "aa"):
        b.add(name, tokens=range(40), max_tokens=5)
        b.drain()
    stats = b.scheduler.stats()
    assert (stats.hits, stats.misses, stats.blocks_cached) == (0, 0, 0)


def test_prompt_logprobs_need_all_rows(bench) -> None:
    b = bench(prefix_recompute=1)
    for name in ("a", "b"):
        request = GenerationRequest(name, tuple(range(20)), SamplingParams(max_tokens=1, prompt_logprobs=1))
        b.scheduler.enqueue(Sequence(request, b.tokenizer, frozenset()))
        assert b.step().admitted[0].cached == 0


def test_deadlines_end_what_waits_and_what_runs(bench) -> None:
    b = bench(max_sequences=1)
    b.add("running", deadline_s=5.0)
    b.add("waiting", deadline_s=3.0)
    b.add("patient", deadline_s=50.0, max_tokens=2)
    b.step()
    assert b.scheduler.expire() == []
    b.now = 3.0
    assert names(b.scheduler.expire()) == ["waiting"]
    b.now = 5.5
    assert names(b.scheduler.expire()) == ["running"]
    b.scheduler.check_integrity()
    b.drain()
    b.now = 1000.0
    assert b.scheduler.expire() == []


def test_removing_twice_is_harmless(bench) -> None:
    b = bench(max_sequences=1)
    b.add("a")
    b.add("b")
    b.step()
    assert b.scheduler.remove("a") is not None
    assert b.scheduler.remove("a") is None
    assert b.scheduler.remove("b") is None
    assert b.drain() == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kv_tokens", 0),
        ("prefill_rows", 0),
        ("prefill_rows", 4096),
        ("prefill_rows_busy", 0),
        ("step_rows", 16),
        ("prefix_recompute", 0),
        ("memory_bytes", 0),
        ("drafter_share", 1.0),
        ("learner_share", -0.1),
    ],
)
def test_a_bad_size_is_named(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"engine\.{field}: must be") as caught:
        EngineConfig(**{field: value})
    assert caught.value.field == f"engine.{field}"


def test_prompt_rows_beside_decoding_ones_double_the_step_at_most(bench) -> None:
    profile = StepProfile((1, 4, 16, 64), (1.0, 1.3, 2.5, 9.0))
    assert profile.room_beside(1) == 10
    assert profile.room_beside(16) == 18
    assert profile.room_beside(64) == 0
    b = bench(max_sequences=3, prefill_rows=64, prefill_rows_busy=2, tree_nodes=0)
    b.scheduler.pace(profile)
    b.add("short", 1, max_tokens=30)
    b.step()
    b.add("long", 60, max_tokens=1)
    assert sum(chunk.count for chunk in b.step().chunks) == 10
