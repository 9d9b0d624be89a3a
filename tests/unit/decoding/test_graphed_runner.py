"""Recorded steps at padded sizes give what eager ones give; whatever goes wrong, outputs don't change.

On the CPU a recorder that runs the same function again stands for CUDA graphs.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.batch import SlotTable
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.drafting.forest import Forest
from online_draft.decoding.engine import Engine
from online_draft.decoding.plan import PrefillChunk, StepPlan
from online_draft.decoding.runners import select
from online_draft.decoding.runners.base import Memory, Moves, Rows
from online_draft.decoding.runners.capture import Recorded
from online_draft.decoding.runners.eager import EagerRunner
from online_draft.decoding.runners.graphed import GraphedRunner
from online_draft.decoding.runners.static import bucket_for, extended_buckets, power_of_two
from online_draft.decoding.sequence import Sequence
from online_draft.models.amphista import Amphista, AmphistaConfig
from online_draft.models.kv import KVCache
from online_draft.models.loading import LoadedTarget
from online_draft.models.ring import FeatureRing
from online_draft.models.target import Target

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
PLACES = 120


class Rerun:
    """Records by keeping the function."""

    def __init__(self, limit_bytes: int = 1 << 40, nbytes: int = 1) -> None:
        self.limit_bytes = limit_bytes
        self.nbytes = nbytes
        self.recorded = 0
        self.replayed = 0

    def record(self, step: Callable[[], None]) -> Recorded:
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            step()

        return Recorded(replay, self.nbytes)


class Stand:
    """As much of a sequence as a runner looks at."""

    def __init__(self, slot: int, length: int, tokens: list[int]) -> None:
        self.slot, self.length, self.tokens = slot, length, tokens


def random_step(rng: random.Random, sequences: int) -> tuple[StepPlan, Forest | None]:
    """Ragged trees (empty ones too), plain roots and prompt chunks in any mixture."""
    plan = StepPlan()
    counts: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    kinds = rng.choice(["tree", "plain", "chunk", "tree plain", "tree plain chunk", "plain chunk"]).split()
    for slot in rng.sample(range(sequences), rng.randint(1, sequences)):
        kind = rng.choice(kinds)
        length = rng.randint(1, 60)
        tokens = [rng.randrange(256) for _ in range(length + 1)]
        if kind == "chunk":
            start = rng.choice([0, rng.randrange(length)])
            stand = cast("Sequence", Stand(slot, start, tokens))
            plan.chunks.append(PrefillChunk(stand, start, rng.randint(1, length + 1 - start)))
        elif kind == "plain":
            plan.plain.append(cast("Sequence", Stand(slot, length, tokens)))
        else:
            plan.speculating.append(cast("Sequence", Stand(slot, length, tokens)))
            own: list[int] = []
            for node in range(rng.randint(0, 20)):
                allowed = [p for p in range(-1, node) if p < 0 or own[p] < 4]
                parent = rng.choice(allowed)
                parents.append(parent)
                own.append(1 if parent < 0 else own[parent] + 1)
            counts.append(len(own))
            depths += own
    if not depths:
        plan.plain, plan.speculating = plan.speculating + plan.plain, []
        return plan, None
    return plan, Forest(counts, [rng.randrange(256) for _ in parents], parents, depths)


def make_memory(target: Target, sequences: int, seed: int) -> Memory:
    """Caches full of random context, blocks in any order."""
    generator = torch.Generator().manual_seed(seed)
    device = target.device
    table = SlotTable(sequences, PLACES, device)
    table.table.copy_(1 + torch.randperm(sequences * PLACES, generator=generator).view(sequences, PLACES))
    kv = KVCache(target.config, 1 + sequences * PLACES, target.dtype, device)
    kv.pairs.copy_(torch.randn(kv.pairs.shape, generator=generator))
    return Memory(kv, FeatureRing(sequences, 32, target.config.hidden_size, target.dtype, device), table)


def same_rows(rows: Rows, expected: Rows, plan: StepPlan, forest: Forest | None) -> float:
    """The largest difference of hidden states and logits, part by part."""
    error = 0.0
    parts = [
        (mine, theirs, count + 1)
        for mine, theirs, count in zip(
            rows.tree_starts, expected.tree_starts, forest.counts if forest else [], strict=True
        )
    ]
    lasts = sum(chunk.last for chunk in plan.chunks)
    for (mine, theirs, count), both in [
        *((part, True) for part in parts),
        ((rows.plain_start, expected.plain_start, len(plan.plain)), True),
        *(
            ((mine, theirs, chunk.count), False)
            for mine, theirs, chunk in zip(rows.chunk_starts, expected.chunk_starts, plan.chunks, strict=True)
        ),
    ]:
        if count:
            hidden = rows.hidden_NF[mine : mine + count] - expected.hidden_NF[theirs : theirs + count]
            error = max(error, float(hidden.abs().max()))
        if count and both:
            logits = rows.logits_MV[mine : mine + count] - expected.logits_MV[theirs : theirs + count]
            error = max(error, float(logits.abs().max()))
    if lasts:
        logits = rows.logits_MV[-lasts:] - expected.logits_MV[-lasts:]
        error = max(error, float(logits.abs().max()))
    return error


def own_slots(plan: StepPlan, forest: Forest | None, table: SlotTable) -> list[int]:
    """The slots that a step's rows write to."""
    spans = [(s.slot, s.length, 1) for s in plan.plain]
    spans += [(c.sequence.slot, c.start, c.count) for c in plan.chunks]
    for sequence, count in zip(plan.speculating, forest.counts if forest else [], strict=True):
        spans.append((sequence.slot, sequence.length, count + 1))
    return [slot for row, start, count in spans for slot in table.table[row, start : start + count].tolist()]


def random_memories(target: Target, count: int, sequences: int) -> list[Memory]:
    return [make_memory(target, sequences, 5) for _ in range(count)]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.sampled_from(FAMILIES))
def test_recorded_steps_equal_eager_ones(tiny_target, seed: int, family: str) -> None:
    rng = random.Random(seed)
    target = tiny_target(family, False).target
    sequences = rng.randint(1, 5)
    ours, theirs = random_memories(target, 2, sequences)
    config = EngineConfig(max_sequences=sequences, tree_nodes=rng.choice([0, 3, 20]), step_rows=512)
    capture = Rerun()
    graphed, eager = GraphedRunner(target, ours, config, capture, False), EagerRunner(target, theirs)
    with torch.inference_mode():
        for _ in range(3):
            plan, forest = random_step(rng, sequences)
            # Where eager padding went may be context by now.
            theirs.kv.pairs.copy_(ours.kv.pairs)
            expected = eager.run(plan, forest)
            for _ in range(4):
                rows = graphed.run(plan, forest)
                assert same_rows(rows, expected, plan, forest) < 1e-11
            assert rows.greedy_M is not None
            assert rows.greedy_M.tolist() == rows.logits_MV.argmax(-1).tolist()
            before = ours.kv.pairs.clone()
            graphed.run(plan, forest)
            own = own_slots(plan, forest, ours.slots)
            torch.testing.assert_close(ours.kv.pairs[:, own], theirs.kv.pairs[:, own], rtol=0, atol=1e-11)
            before[:, [0, *own]] = ours.kv.pairs[:, [0, *own]]
            assert torch.equal(ours.kv.pairs, before)
    assert not graphed.failed
    assert capture.replayed >= 3


def graphed_engine(loaded: LoadedTarget, config: EngineConfig, capture: Rerun) -> Engine:
    engine = Engine(loaded, replace(config, kernels="off"))
    engine._runner = GraphedRunner(engine.target, engine._memory, config, capture, False)
    engine._feed.runner = engine._runner
    return engine


def amphista(loaded: LoadedTarget, seed: int) -> Amphista:
    torch.manual_seed(seed)
    sizes = {"hidden_size": loaded.config.hidden_size, "vocab_size": loaded.config.vocab_size}
    config = AmphistaConfig(
        **sizes, attention_heads=4, intermediate_size=32, markov_rank=4, stages=2, window=32, chunk=4
    )
    drafter = Amphista(config).to(device=loaded.target.device, dtype=loaded.target.dtype)
    drafter.start_from(loaded.target)
    return drafter


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.sampled_from(FAMILIES), st.booleans())
def test_engine_on_recorded_steps_gives_plain_outputs(
    tiny_target, recall_drafter, random_sampling, decode, seed: int, family: str, tie: bool
) -> None:
    rng = random.Random(seed)
    loaded = tiny_target(family, tie)
    requests = []
    for index in range(rng.randint(1, 5)):
        prompt = tuple(rng.randrange(256) for _ in range(rng.choice([1, 2, 7, 40, 90])))
        requests.append(GenerationRequest(f"r{index}", prompt, random_sampling(rng, rng.randint(1, 30))))
    plain = decode(
        Engine(loaded, EngineConfig(max_sequences=1, kernels="off")),
        [replace(r, speculate=False) for r in requests],
    )
    config = EngineConfig(
        speculation="always",
        max_sequences=rng.randint(1, 5),
        kv_tokens=rng.choice([256, 2048]),
        block_size=rng.choice([1, 4, 16]),
        tree_nodes=rng.randint(0, 20),
        tree_width=rng.randint(1, 10),
        feature_window=32,
        prefill_rows=rng.choice([1, 3, 16, 256]),
    )
    engine = graphed_engine(loaded, config, Rerun())
    texts = [list(r.prompt_ids) + plain[r.request_id] for r in requests]
    drafters = [None, amphista(loaded, 1), recall_drafter(texts, 0.9, seed), recall_drafter(texts, 0.6, seed)]

    def swap(step: int) -> None:
        if step == 0 or rng.random() < 0.3:
            champion, second = rng.sample(drafters, 2)
            if champion is None or rng.random() < 0.3:
                engine.set_drafter(champion, f"v{step}")
            else:
                engine.set_drafters(champion, f"v{step}", second, f"w{step}", rng.random(), step)

    assert decode(engine, requests, swap) == plain
    assert not engine._runner.failed


def some_requests(count: int = 3, speculate: bool = True) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            f"r{index}",
            tuple(range(index, 3 * index + 5)),
            SamplingParams(temperature=index % 2, max_tokens=24, seed=index, ignore_eos=True),
            speculate=speculate,
        )
        for index in range(count)
    ]


@pytest.fixture
def expected(tiny_target, decode) -> dict[str, list[int]]:
    return decode(Engine(tiny_target(), EngineConfig(kernels="off")), some_requests(speculate=False))


class Failing(Rerun):
    """Can't record."""

    def record(self, step: Callable[[], None]) -> Recorded:
        raise RuntimeError("operation not permitted when stream is capturing")


class Corrupting(Rerun):
    """What it recorded leaves out the step: results are those of another one."""

    def record(self, step: Callable[[], None]) -> Recorded:
        return Recorded(lambda: None, 1)


@pytest.mark.parametrize(
    ("capture", "reason"), [(Failing(), "not permitted"), (Corrupting(), "differs from the eager one")]
)
def test_a_failure_ends_recording_and_changes_no_output(
    tiny_target, decode, expected, caplog, capture: Rerun, reason: str
) -> None:
    engine = graphed_engine(tiny_target(), EngineConfig(speculation="always"), capture)
    engine.set_drafter(amphista(tiny_target(), 1), "v")
    assert decode(engine, some_requests()) == expected
    assert engine._runner.failed
    (record,) = [r for r in caplog.records if "without CUDA graphs" in r.getMessage()]
    assert reason in record.getMessage()


class Breaking(Rerun):
    """Can't record any more once it is `broken`."""

    broken = False

    def record(self, step: Callable[[], None]) -> Recorded:
        if self.broken:
            raise RuntimeError("no more graphs")
        return super().record(step)


@pytest.mark.parametrize("while_profiling", [False, True])
def test_an_engine_whose_graphs_fail_says_so_and_counts_on_eager_costs(
    tiny_target, decode, expected, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, while_profiling: bool
) -> None:
    monkeypatch.setenv("ONLINE_DRAFT_CACHE", str(tmp_path))
    capture = Breaking()
    monkeypatch.setattr(select, "CudaCapture", lambda _: capture)
    engine = Engine(tiny_target(), EngineConfig(kernels="off", max_sequences=2, tree_nodes=4))
    engine._runners._graphs = True
    engine._change_runner()
    assert engine.kernel == "graphed" and engine._drafting.policy.cost.padded

    if while_profiling:
        capture.broken = True
    engine.set_drafter(amphista(tiny_target(), 1), "v")
    capture.broken = True
    assert decode(engine, some_requests()) == expected
    assert (engine.kernel, engine._runners.identity) == ("eager", "eager")
    assert isinstance(engine._runner, EagerRunner)
    assert not engine._runners.pending and not engine._drafting.policy.cost.padded


def test_memory_bounds_what_is_recorded(tiny_target, decode, expected) -> None:
    none, few = Rerun(limit_bytes=0), Rerun(limit_bytes=1 << 40, nbytes=1 << 39)
    for capture, recorded in ((none, 0), (few, 2)):
        engine = graphed_engine(tiny_target(), EngineConfig(speculation="always"), capture)
        engine.set_drafter(amphista(tiny_target(), 1), "v")
        assert decode(engine, some_requests()) == expected
        assert capture.recorded == recorded
        assert not engine._runner.failed


def test_graphs_outlive_changes_in_place_but_not_moved_weights(tiny_target) -> None:
    target = tiny_target("qwen2", False, torch.float64, 9).target
    ours, theirs = random_memories(target, 2, 2)
    capture = Rerun()
    config = EngineConfig(max_sequences=2)
    graphed, eager = GraphedRunner(target, ours, config, capture, False), EagerRunner(target, theirs)
    plan = StepPlan(plain=[cast("Sequence", Stand(0, 30, [0] * 30 + [7]))])

    def check() -> None:
        for _ in range(3):
            assert same_rows(graphed.run(plan, None), eager.run(plan, None), plan, None) < 1e-11

    with torch.inference_mode():
        check()
        assert capture.recorded == 1
        before = graphed.run(plan, None).logits_MV.clone()
        for parameter in target.parameters():
            parameter.mul_(1.1)
        target.thaw()
        check()
        assert capture.recorded == 1
        assert not torch.equal(graphed.run(plan, None).logits_MV, before)
        for parameter in target.parameters():
            parameter.data = parameter.clone()
        target.thaw()
        check()
        assert capture.recorded == 2


def test_apply_moves_and_feeds_as_the_eager_runner(tiny_target) -> None:
    target = tiny_target().target
    ours, theirs = random_memories(target, 2, 3)
    graphed = GraphedRunner(target, ours, EngineConfig(max_sequences=3), Rerun(), False)
    eager = EagerRunner(target, theirs)
    hidden = torch.randn(9, target.config.hidden_size, dtype=target.dtype)
    rows = Rows(hidden, hidden, [], 0, [])
    for moves in (
        Moves([5, 9], [4, 5], [2, 0], [2, 3], [0, 1, 4, 6, 8], [10, 11, 12, 13, 14]),
        Moves([], [], [1], [1], [3], [4]),
        Moves([8], [2]),
        Moves(),
    ):
        graphed.apply(moves, rows)
        eager.apply(moves, rows)
    assert torch.equal(ours.kv.pairs, theirs.kv.pairs)
    assert torch.equal(ours.ring.hidden_RF, theirs.ring.hidden_RF)
    assert torch.equal(ours.ring.next_tokens_R, theirs.ring.next_tokens_R)
    assert ours.ring.end == theirs.ring.end


def test_buckets_hold_what_they_are_for() -> None:
    assert extended_buckets((1, 3, 6), 20) == (1, 3, 6, 12, 20)
    assert extended_buckets((1, 64), 20) == (1, 64)
    assert [bucket_for(n, (1, 3, 6)) for n in (1, 2, 3, 4, 6, 7)] == [1, 3, 3, 6, 6, None]
    assert [power_of_two(n) for n in (0, 1, 2, 3, 4, 5)] == [0, 1, 2, 4, 4, 8]


@pytest.fixture
def interpreter() -> Iterator[None]:
    """Triton's interpreter, where there is Triton but no device."""
    if importlib.util.find_spec("triton") is None or torch.cuda.is_available():
        pytest.skip("needs Triton and no device")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        yield


@pytest.mark.usefixtures("interpreter")
def test_steps_through_the_kernel_equal_eager_ones(tiny_target) -> None:
    rng = random.Random(4)
    target = tiny_target("llama", False, torch.float32).target
    ours, theirs = random_memories(target, 2, 3)
    config = EngineConfig(max_sequences=3, tree_nodes=8)
    graphed, eager = GraphedRunner(target, ours, config, Rerun(), True), EagerRunner(target, theirs)
    with torch.inference_mode():
        for _ in range(2):
            plan, forest = random_step(rng, 3)
            theirs.kv.pairs.copy_(ours.kv.pairs)
            expected = eager.run(plan, forest)
            for _ in range(3):
                assert same_rows(graphed.run(plan, forest), expected, plan, forest) < 1e-3
    assert not graphed.failed


def on_device(loaded: LoadedTarget, dtype: torch.dtype) -> LoadedTarget:
    target = Target(loaded.config, dtype, "cuda")
    with torch.no_grad():
        for mine, theirs in zip(target.parameters(), loaded.target.parameters(), strict=True):
            mine.copy_(theirs)
    return replace(loaded, target=target)


needs_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.cuda
@pytest.mark.filterwarnings("default")
@needs_device
@pytest.mark.parametrize("family", FAMILIES)
def test_speculation_is_exact_on_a_device(tiny_target, decode, family: str) -> None:
    loaded = on_device(tiny_target(family), torch.float64)
    plain = decode(Engine(loaded, EngineConfig(kernels="off")), some_requests(speculate=False))
    engine = Engine(loaded, EngineConfig(speculation="always"))
    assert isinstance(engine._runner, GraphedRunner)
    for seed in (1, 2):
        engine.set_drafter(amphista(loaded, seed), f"v{seed}")
        assert decode(engine, some_requests()) == plain
    assert not engine._runner.failed


@pytest.mark.cuda
@pytest.mark.filterwarnings("default")
@needs_device
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_replayed_graphs_equal_eager_steps_after_a_swap_on_a_device(tiny_target, dtype: torch.dtype) -> None:
    from online_draft.decoding.runners.capture import CudaCapture

    target = on_device(tiny_target("llama", False, torch.float64), dtype).target
    ours, theirs = random_memories(target, 2, 3)
    config = EngineConfig(max_sequences=3)
    graphed = GraphedRunner(target, ours, config, CudaCapture(target.device))
    eager = EagerRunner(target, theirs)
    largest = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.5}[dtype]
    steps = [random_step(random.Random(seed), 3) for seed in range(6)]
    with torch.inference_mode():
        for _ in range(2):
            for plan, forest in steps:
                for _ in range(4):
                    rows = graphed.run(plan, forest)
                theirs.kv.pairs.copy_(ours.kv.pairs)
                assert same_rows(rows, eager.run(plan, forest), plan, forest) < largest
            for parameter in target.parameters():
                parameter.mul_(0.9)
            target.thaw()
    assert not graphed.failed
