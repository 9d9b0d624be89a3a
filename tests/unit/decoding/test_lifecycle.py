"""Requests that share, are preempted, cancelled or late: outputs stay plain's, the cache stays intact."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from online_draft.core import GenerationRequest, SamplingParams, StepOutput
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.errors import ConfigError, RequestError
from online_draft.models.amphista import Amphista, AmphistaConfig
from online_draft.models.config import TargetConfig
from online_draft.models.drafter import Draft, DraftState
from online_draft.models.loading import LoadedTarget, random_target
from online_draft.models.ring import FeatureRing

SMALL = EngineConfig(
    max_sequences=4,
    kv_tokens=160,
    block_size=4,
    tree_nodes=6,
    feature_window=32,
    prefill_rows=24,
    prefill_rows_busy=8,
    prefix_recompute=2,
    speculation="always",
)


def amphista(loaded: LoadedTarget, seed: int = 1, **changes: int) -> Amphista:
    torch.manual_seed(seed)
    sizes = {"hidden_size": loaded.config.hidden_size, "vocab_size": loaded.config.vocab_size}
    small = {"num_heads": 3, "attention_heads": 4, "intermediate_size": 32, "markov_rank": 4}
    config = AmphistaConfig(**sizes, **small, stages=2, window=32, chunk=4, **changes)
    drafter = Amphista(config).to(loaded.target.dtype)
    drafter.start_from(loaded.target)
    return drafter


def request(
    name: str, prompt: int | tuple[int, ...] = 20, max_tokens: int = 40, **fields
) -> GenerationRequest:
    ids = tuple((7 * i + len(name)) % 256 for i in range(prompt)) if isinstance(prompt, int) else prompt
    sampling = SamplingParams(temperature=0.8, max_tokens=max_tokens, ignore_eos=True, seed=sum(ids))
    return GenerationRequest(name, ids, sampling, **fields)


def plainly(loaded: LoadedTarget, requests: list[GenerationRequest], decode) -> dict[str, list[int]]:
    """What each gives alone, without sharing, speculation or pressure."""
    engine = Engine(loaded, EngineConfig(max_sequences=1, prefix_cache=False, tree_nodes=0))
    return decode(engine, [replace(r, speculate=False, deadline_s=None) for r in requests])


def finish(engine: Engine) -> dict[str, list[StepOutput]]:
    """Run to the end; every output by request."""
    got: dict[str, list[StepOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            got.setdefault(output.request_id, []).append(output)
        engine.check_integrity()
    assert engine.cache_stats().blocks_held == 0
    assert engine._ngrams is not None and engine._ngrams.memory.stats().requests == 0
    return got


@pytest.fixture(params=["amphista", "recall", "none"])
def engine_for(request, tiny_target, recall_drafter):
    """An engine under pressure with each kind of drafter, and its target."""

    def make(texts: dict[str, list[int]] | None = None, **changes) -> Engine:
        loaded = tiny_target()
        engine = Engine(loaded, replace(SMALL, **changes))
        if request.param == "amphista":
            engine.set_drafter(amphista(loaded), "a")
        elif request.param == "recall":
            engine.set_drafter(recall_drafter(list((texts or {}).values()), 0.9, 1), "r")
        return engine

    return make


def test_preempted_requests_go_on_as_if_nothing_had_happened(engine_for, tiny_target, decode) -> None:
    requests = [request(name, 10 + 5 * i, 50) for i, name in enumerate(("a", "bb", "ccc", "dddd"))]
    plain = plainly(tiny_target(), requests, decode)
    engine = engine_for(plain)
    assert decode(engine, requests) == plain
    assert engine.cache_stats().preemptions > 0
    assert engine.cache_stats().blocks_held == 0


def test_text_and_stop_strings_survive_preemption(tiny_target, steps_of) -> None:
    loaded = tiny_target()
    base = [request(name, 25, 60) for name in ("a", "bb", "ccc", "dddd")]
    roomy = steps_of(Engine(loaded), [(r, None) for r in base])
    whole = {name: "".join(o.text for o in outputs) for name, outputs in roomy.items()}
    stops = {name: text[len(text) // 2 :][:3] for name, text in whole.items()}
    requests = [replace(r, sampling=replace(r.sampling, stop=(stops[r.request_id],))) for r in base]
    engine = Engine(loaded, SMALL)
    engine.set_drafter(amphista(loaded), "v")
    outputs = steps_of(engine, [(r, None) for r in requests])
    assert engine.cache_stats().preemptions > 0
    for name, steps in outputs.items():
        text = "".join(o.text for o in steps)
        assert text == whole[name][: whole[name].index(stops[name])]
        assert steps[-1].finish_reason == "stop"
        assert steps[-1].counts is not None
        assert steps[-1].counts.committed == sum(len(o.token_ids) for o in steps)


def test_shared_prefixes_give_plain_outputs(engine_for, tiny_target, decode) -> None:
    system = tuple(range(40, 81))
    requests = [
        request(f"r{i}", (*system[: 41 - 3 * (i % 4)], *range(i, i + 2 * i)), 12, choice_index=i)
        for i in range(8)
    ]
    plain = plainly(tiny_target(), requests, decode)
    engine = engine_for(plain, kv_tokens=2000)
    for chosen in requests:
        assert decode(engine, [chosen]) == {chosen.request_id: plain[chosen.request_id]}
    stats = engine.cache_stats()
    assert stats.hits >= 7 * (30 // 4)
    assert stats.misses > 0
    again = [replace(r, request_id=f"again{r.request_id}") for r in requests]
    assert list(decode(engine, again).values()) == list(plain.values())
    assert engine.cache_stats().preemptions == 0


def test_the_next_turn_starts_behind_the_last_answer(engine_for, tiny_target, decode) -> None:
    first = request("turn1", 30, 20)
    answer = plainly(tiny_target(), [first], decode)["turn1"]
    second = request("turn2", (*first.prompt_ids, *answer, 5, 6, 7), 20)
    plain = plainly(tiny_target(), [second], decode)
    engine = engine_for({"1": answer, **plain}, kv_tokens=400)
    decode(engine, [first])
    assert decode(engine, [second]) == plain
    assert engine.cache_stats().hits == (50 - 1) // 4


def test_evicted_prefixes_are_computed_again(engine_for, tiny_target, decode) -> None:
    requests = [request(str(i), tuple((i * 31 + j) % 256 for j in range(60)), 10) for i in range(6)]
    plain = plainly(tiny_target(), requests, decode)
    engine = engine_for(plain)
    for turn in range(2):
        for r in requests:
            assert decode(engine, [r]) == {r.request_id: plain[r.request_id]}, turn
    assert engine.cache_stats().evictions > 0
    assert engine.cache_stats().hits == 0, "six prompts in turn don't fit"


def test_the_same_prompt_many_times_at_once(engine_for, tiny_target, decode) -> None:
    requests = [replace(request("x", 70, 15), request_id=f"n{i}", choice_index=i) for i in range(8)]
    plain = plainly(tiny_target(), requests, decode)
    engine = engine_for(plain)
    assert decode(engine, requests) == plain
    assert engine.cache_stats().hits > 0


def test_one_tenant_never_meets_the_blocks_of_another(tiny_target, decode) -> None:
    engine = Engine(tiny_target(), replace(SMALL, kv_tokens=2000))
    decode(engine, [request("a", 40, 4, tenant="one")])
    decode(engine, [request("b", 40, 4, tenant="two")])
    assert engine.cache_stats().hits == 0
    decode(engine, [request("c", 40, 4, tenant="one")])
    assert engine.cache_stats().hits > 0


def stages(engine: Engine, name: str) -> Iterator[str]:
    """Step an engine; what the request is doing after each step."""
    seen = False
    while engine.has_work:
        outputs = [o for o in engine.step() if o.request_id == name]
        engine.check_integrity()
        assert all(o.finish_reason is None for o in outputs), "it ended before the stage was seen"
        seen = seen or bool(outputs)
        slots = [engine.request_in(slot) for slot in range(engine.config.max_sequences)]
        if any(r is not None and r.request_id == name for r in slots):
            yield "decoding" if seen else "prefilling"
        else:
            yield "preempted" if seen else "waiting"


@pytest.mark.parametrize("stage", ["new", "waiting", "prefilling", "decoding", "preempted"])
def test_a_request_can_be_cancelled_at_any_stage(engine_for, tiny_target, decode, stage: str) -> None:
    others = [request(name, 20, 40) for name in ("a", "bb", "ccc")]
    plain = plainly(tiny_target(), others, decode)
    engine = engine_for(plain, max_sequences=3 if stage == "waiting" else 4)
    for other in others:
        engine.add(other)
    engine.add(request("victim", 20, 60, priority=1))
    assert stage == "new" or any(now == stage for now in stages(engine, "victim"))
    engine.cancel("victim")
    engine.cancel("victim")
    engine.check_integrity()
    rest = finish(engine)
    assert "victim" not in rest
    assert all(rest[name][-1].finish_reason == "length" for name in rest)
    for name, steps in rest.items():
        tokens = [token for output in steps for token in output.token_ids]
        assert tokens == plain[name][len(plain[name]) - len(tokens) :]
    engine.add(request("victim", 40, 3))
    assert finish(engine)["victim"][-1].finish_reason == "length"


@pytest.mark.parametrize("stage", ["waiting", "prefilling", "decoding", "preempted"])
def test_a_late_request_ends_in_the_next_step(tiny_target, stage: str) -> None:
    now = [0.0]
    loaded = tiny_target()
    engine = Engine(
        loaded, replace(SMALL, max_sequences=3 if stage == "waiting" else 4), clock=lambda: now[0]
    )
    engine.set_drafter(amphista(loaded), "v")
    for name in ("a", "bb", "ccc"):
        engine.add(request(name, 20, 40))
    engine.add(request("late", 20, 60, priority=1, deadline_s=5.0))
    assert any(at == stage for at in stages(engine, "late"))
    now[0] = 5.0
    (last,) = [o for o in engine.step() if o.request_id == "late"]
    assert (last.finish_reason, last.error) == ("abort", "deadline exceeded")
    assert last.token_ids == () and last.counts is not None
    engine.check_integrity()
    assert "late" not in finish(engine)


def test_a_deadline_alone_in_the_engine_is_kept(tiny_target) -> None:
    now = [0.0]
    engine = Engine(tiny_target(), clock=lambda: now[0])
    engine.add(request("a", deadline_s=1.0))
    now[0] = 2.0
    (output,) = engine.step()
    assert output.finish_reason == "abort"
    assert not engine.has_work


@pytest.mark.parametrize("deadline", [0.0, -1.0, float("nan")])
def test_a_deadline_that_is_no_time_is_refused(tiny_target, deadline: float) -> None:
    with pytest.raises(RequestError, match="greater than 0") as caught:
        Engine(tiny_target()).add(request("a", deadline_s=deadline))
    assert caught.value.param == "deadline_s"


def test_what_can_never_fit_is_refused(tiny_target) -> None:
    engine = Engine(tiny_target(), SMALL)
    with pytest.raises(RequestError, match="KV blocks") as caught:
        engine.add(request("a", 100, 55))
    assert caught.value.param == "max_tokens"
    engine.add(request("b", 100, 54))
    finish(engine)
    engine.add(request("plain", 100, 60, speculate=False))
    finish(engine)


def test_an_error_in_a_step_leaves_the_engine_intact(tiny_target, recall_drafter, decode) -> None:
    class Broken(recall_drafter):
        def draft(self, state: DraftState, ring: FeatureRing, slots: list[int]) -> Draft:
            raise RuntimeError("no idea")

    loaded = tiny_target()
    requests = [request(name, 10 + 5 * i, 40) for i, name in enumerate(("a", "bb", "ccc", "dddd"))]
    plain = plainly(loaded, requests, decode)
    engine = Engine(loaded, SMALL)
    broken = Broken([], 1.0, 0)
    good = amphista(loaded)
    for r in requests:
        engine.add(r)
    got: dict[str, list[int]] = {r.request_id: [] for r in requests}
    step = failures = 0
    while engine.has_work:
        engine.set_drafter(broken if step % 3 == 2 else good, "v")
        try:
            for output in engine.step():
                got[output.request_id].extend(output.token_ids)
        except RuntimeError:
            failures += 1
        engine.check_integrity()
        step += 1
    assert got == plain
    assert failures > 5
    assert engine.cache_stats().preemptions > 0
    assert engine.cache_stats().blocks_held == 0


@pytest.mark.parametrize("kernels", ["off", "wait"])
@pytest.mark.parametrize("part", ["draft", "run", "apply"])
@pytest.mark.parametrize("at", [0, 3, 9])
def test_whatever_part_of_a_step_fails_nothing_is_leaked_or_poisoned(
    tiny_target, decode, part: str, at: int, kernels: str
) -> None:
    """Requests of a failed step can be given up, and what others find in the prefix cache is right."""
    loaded = tiny_target()
    requests = [request(name, 24, 30) for name in ("a", "bb", "ccc")]
    plain = plainly(loaded, requests, decode)
    engine = Engine(loaded, replace(SMALL, kernels=kernels))
    engine.set_drafter(amphista(loaded), "v")
    for r in requests:
        engine.add(r)
    for _ in range(at):
        engine.step()
    runner = engine._runner
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, part, lambda *arguments: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            while engine.has_work:
                engine.step()
    engine.check_integrity()
    for r in requests:
        engine.cancel(r.request_id)
        engine.check_integrity()
    assert (engine.load(), engine.cache_stats().blocks_held) == ((0, 0), 0)
    assert decode(engine, requests) == plain


def test_a_drafter_that_knows_too_few_positions_is_refused(tiny_target, decode) -> None:
    """Compiled code does not check positions: it would read what stands behind the table."""
    loaded = tiny_target()
    positions = loaded.config.max_position_embeddings
    engine = Engine(loaded, SMALL)
    engine.set_drafter(amphista(loaded, max_positions=positions), "fits")
    with pytest.raises(ConfigError, match="max_context") as error:
        engine.set_drafter(amphista(loaded, max_positions=positions - 1), "short")
    assert error.value.field == "engine.max_context"
    assert engine.drafter_version == "fits", "the one before goes on"
    short = Engine(loaded, replace(SMALL, max_context=64))
    short.set_drafter(amphista(loaded, max_positions=64), "fits")
    asked = [request("a", 24, 40)]
    assert decode(short, asked) == plainly(loaded, asked, decode)


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that is made while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(made, torch.Tensor):
                self.elements = max(self.elements, made.numel())
        return result


def test_a_prompt_of_8000_tokens_makes_no_quadratic_mask(byte_tokenizer, tmp_path) -> None:
    config = TargetConfig.tiny("llama", False, 256, max_position_embeddings=8300)
    target = random_target(config, 0, torch.float32)
    loaded = LoadedTarget(target, byte_tokenizer, config, "tiny", "tiny", tmp_path)
    sizes = EngineConfig(
        max_sequences=1, kv_tokens=8300, prefill_rows=512, speculation="always", kernels="off"
    )
    engine = Engine(loaded, sizes)
    engine.set_drafter(amphista(loaded, max_positions=8300), "v")
    engine.add(request("long", 8192, 8))
    cache = 2 * config.num_layers * config.num_kv_heads * config.head_dim * (8300 + 32)
    with LargestTensor() as largest:
        finish(engine)
    assert largest.elements <= max(512 * 8300, cache)
    assert largest.elements < 8192 * 8192 / 12


def test_random_lifecycles_end_with_an_empty_cache_and_plain_outputs(
    tiny_target, recall_drafter, decode
) -> None:
    """2,000 requests of 60 kinds come, share, wait, are preempted, cancelled or late, under drafter swaps."""
    rng = random.Random(2024)
    loaded = tiny_target()
    stems = [tuple(rng.randrange(256) for _ in range(rng.choice([9, 24, 40]))) for _ in range(5)]
    kinds = [
        request(
            f"kind{i}",
            (*rng.choice(stems), *(rng.randrange(256) for _ in range(rng.randint(0, 12)))),
            rng.randint(1, 14) if i % 10 else 60,
            tenant=rng.choice(["one", "one", "two"]),
            priority=rng.choice([0, 0, 0, 1, 2]),
            speculate=rng.random() < 0.8,
            choice_index=i,
            learn=i % 7 > 0,
        )
        for i in range(60)
    ]
    plain = plainly(loaded, kinds, decode)
    texts = [[*kind.prompt_ids, *plain[kind.request_id]] for kind in kinds]
    drafters = [None, amphista(loaded, 1), amphista(loaded, 2), recall_drafter(texts, 0.8, 1)]
    now = [0.0]
    engine = Engine(loaded, replace(SMALL, kv_tokens=240, max_sequences=6), clock=lambda: now[0])
    got: dict[str, list[int]] = {}
    kind_of: dict[str, GenerationRequest] = {}
    ends: dict[str, str] = {}
    started, step = 0, 0
    while started < 2000 or engine.has_work:
        while started < 2000 and rng.random() < 0.75 and engine.load()[1] < 12:
            kind = rng.choice(kinds)
            name = f"r{started}"
            deadline = rng.choice([None] * 9 + [rng.uniform(1, 20)])
            engine.add(replace(kind, request_id=name, deadline_s=deadline))
            kind_of[name], got[name] = kind, []
            started += 1
        if rng.random() < 0.1:
            victim = rng.choice(sorted(kind_of.keys() - ends.keys()) or ["nobody"])
            engine.cancel(victim)
            ends[victim] = "cancelled"
        if rng.random() < 0.05:
            engine.set_drafter(rng.choice(drafters), f"v{step}")
        for output in engine.step():
            assert output.request_id not in ends
            got[output.request_id].extend(output.token_ids)
            if output.finish_reason is not None:
                ends[output.request_id] = output.finish_reason
        if step % 5 == 0:
            engine.check_integrity()
        now[0] += 1.0
        step += 1
    engine.check_integrity()
    for name, kind in kind_of.items():
        expected = plain[kind.request_id]
        assert got[name] == (expected if ends[name] == "length" else expected[: len(got[name])])
    stats = engine.cache_stats()
    assert stats.blocks_held == 0
    assert engine.load() == (0, 0)
    kinds_of_end = [list(ends.values()).count(end) for end in ("length", "abort", "cancelled")]
    assert min(kinds_of_end) > 50, kinds_of_end
    assert engine._ngrams is not None and engine._ngrams.memory.stats().requests == 0
    assert engine.speculation_report()["ngram"]["found"] > 500
    assert min(stats.hits, stats.misses, stats.evictions, stats.preemptions) >= 20, stats
