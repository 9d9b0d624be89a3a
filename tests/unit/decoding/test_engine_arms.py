"""Two drafters at once: no token changes, each has its own sequences, and who stays keeps what it knows."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from online_draft.core import GenerationRequest, SamplingParams, SpeculationCounts, StepOutput
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.drafting import making
from online_draft.decoding.drafting.arms import place
from online_draft.decoding.engine import Engine
from online_draft.decoding.policy.profile import StepProfile
from online_draft.errors import ConfigError
from online_draft.models.amphista_serving import AmphistaServing
from online_draft.models.artifact import new_drafter
from online_draft.models.drafter import Drafter
from online_draft.models.loading import LoadedTarget
from online_draft.models.native.backend import NativeBackend

CHEAP = StepProfile((1, 64), (1e-3, 1.2e-3), (1, 4), (1e-4, 1e-4))
SIZES = {"attention_heads": 2, "intermediate_size": 32, "markov_rank": 4}


def drafters_of(loaded: LoadedTarget) -> list[Drafter]:
    """Of several kinds, windows, numbers of heads and vocabularies, with weights that say something."""
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("amphista", {**SIZES, "num_heads": 4, "window": 32}),
        ("amphista", {**SIZES, "num_heads": 4, "window": 32}),
        ("amphista", {**SIZES, "num_heads": 2, "window": 16, "stages": 1, "sources": (0, 0)}),
        ("amphista", {**SIZES, "num_heads": 3, "window": 16, "draft_vocab_size": 64}),
        ("medusa", {"num_heads": 3, "window": 1}),
    ]
    made = []
    for seed, (kind, sizes) in enumerate(kinds):
        drafter = new_drafter(kind, loaded.target, **sizes)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in drafter.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.add_(0.05 * noise)
        made.append(drafter)
    return made


def requests(count: int, tokens: int = 40, name: str = "r") -> list[GenerationRequest]:
    return [
        GenerationRequest(
            f"{name}{index}",
            tuple((11 * index + 5 * at) % 256 for at in range(6 + index % 5)),
            SamplingParams(temperature=0.8 * (index % 2), max_tokens=tokens, seed=index, ignore_eos=True),
        )
        for index in range(count)
    ]


def engine_for(loaded: LoadedTarget, **changes: Any) -> Engine:
    sizes = {"max_sequences": 8, "speculation": "always", "tree_nodes": 6, "kernels": "off", "ngram": False}
    return Engine(loaded, EngineConfig(**{**sizes, **changes}))


def steps(engine: Engine) -> Iterator[list[StepOutput]]:
    """Outputs of each step to the end."""
    while engine.has_work:
        yield engine.step()
        engine.check_integrity()


def last_outputs(engine: Engine, asked: Sequence[GenerationRequest]) -> dict[str, StepOutput]:
    for request in asked:
        engine.add(request)
    return {o.request_id: o for outputs in steps(engine) for o in outputs if o.finish_reason is not None}


@pytest.fixture
def loaded(tiny_target: Callable[..., LoadedTarget]) -> LoadedTarget:
    return tiny_target()


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.sampled_from(("llama", "qwen3")))
def test_any_arms_at_any_time_give_plain_outputs(
    tiny_target, recall_drafter, random_sampling, make_adapter, decode, monkeypatch, seed: int, family: str
) -> None:
    monkeypatch.setattr(making, "step_profile", lambda *_: CHEAP)
    rng = random.Random(seed)
    loaded = tiny_target(family)
    asked = []
    for index in range(rng.randint(2, 7)):
        prompt = tuple(rng.randrange(256) for _ in range(rng.choice([1, 2, 7, 40, 90])))
        asked.append(
            GenerationRequest(
                f"r{index}",
                (prompt * 4)[:90] if rng.random() < 0.3 else prompt,
                random_sampling(rng, rng.randint(1, 40)),
                segment=rng.choice("ab"),
                speculate=rng.random() < 0.9,
            )
        )
    plain = decode(
        Engine(loaded, EngineConfig(max_sequences=1)), [replace(r, speculate=False) for r in asked]
    )
    config = EngineConfig(
        speculation=rng.choice(["always", "always", "auto"]),
        ngram=rng.random() < 0.6,
        kernels=rng.choice(["off", "wait"]),
        max_sequences=rng.randint(2, 5),
        kv_tokens=rng.choice([256, 2048]),
        block_size=rng.choice([1, 4, 16]),
        tree_nodes=rng.randint(1, 20),
        tree_width=rng.randint(1, 10),
        feature_window=rng.choice([32, 64]),
        prefill_rows=rng.choice([3, 16, 256]),
        noise_ranked=rng.random() < 0.8,
    )
    engine = Engine(loaded, config)
    texts = [list(r.prompt_ids) + plain[r.request_id] for r in asked]
    pool: list[Drafter] = [
        *drafters_of(loaded),
        recall_drafter(texts, 0.9, seed),
        recall_drafter(texts, 0.6, seed),
    ]
    version = {id(drafter): f"v{index}" for index, drafter in enumerate(pool)}

    def arms_change(step: int) -> None:
        """Canary, promotion, its end, and whatever else."""
        champion, second = (arm and arm.drafter for arm in (engine._arms.champion, engine._arms.second))
        change = rng.random()
        if change < 0.5:
            champion, second = rng.sample(pool, 2)
        elif change < 0.7 and second is not None:
            champion, second = second, champion
        elif change < 0.8:
            champion, second = (None, None) if rng.random() < 0.3 else (second, None)
        else:
            second = rng.choice([None, *(drafter for drafter in pool if drafter is not champion)])
        if champion is None:
            second = None
        names = (None if drafter is None else version[id(drafter)] for drafter in (champion, second))
        engine.set_drafters(
            champion, next(names), second, next(names), rng.random(), step, rng.random() < 0.4
        )
        if champion is not None and champion.kind == "amphista" and rng.random() < 0.5:
            engine.adapters.load("a", make_adapter(champion, "a", seed=step))

    got: dict[str, list[int]] = {r.request_id: [] for r in asked}
    totals: dict[str, SpeculationCounts] = {}
    cancelled = set()
    pending, step = list(asked), 0
    while pending or engine.has_work:
        if pending:
            engine.add(pending.pop(0))
        if step == 0 or rng.random() < 0.3:
            arms_change(step)
        if rng.random() < 0.01:
            cancelled.add(victim := rng.choice(asked).request_id)
            engine.cancel(victim)
            pending = [r for r in pending if r.request_id not in cancelled]
        for output in engine.step():
            got[output.request_id].extend(output.token_ids)
            if output.counts is not None:
                totals[output.request_id] = output.counts
                assert_adds_up(output)
        engine.check_integrity()
        step += 1
    for name, tokens in plain.items():
        if name in cancelled:
            assert got[name] == tokens[: len(got[name])]
        else:
            assert (got[name], totals[name].committed) == (tokens, len(tokens))


def assert_adds_up(output: StepOutput) -> None:
    """The counts of all versions are the counts."""
    if not output.by_version:
        return
    total = SpeculationCounts()
    for _, counts in output.by_version:
        total.add(counts)
    assert total == output.counts
    assert len(dict(output.by_version)) == len(output.by_version) > 1
    assert output.by_version[-1][0] == output.drafter_version


def test_every_sequence_says_which_arm_drafted_for_it(loaded: LoadedTarget) -> None:
    one, two, *_ = drafters_of(loaded)
    asked = requests(60, 6)
    asked[7] = replace(asked[7], speculate=False)
    for max_sequences in (3, 8):
        engine = engine_for(loaded, max_sequences=max_sequences, max_queue=100)
        engine.set_drafters(one, "v1", two, "v2", 0.3, salt=5)
        by_name = {request.request_id: request for request in asked}
        for name, output in last_outputs(engine, asked).items():
            expected = "v2" if place(5, by_name[name]) < 0.3 else "v1"
            assert output.drafter_version == (None if name == "r7" else expected)
            assert output.by_version == ()


def test_a_sequence_stays_with_its_arm_through_preemption_other_shares_and_promotion(
    loaded: LoadedTarget,
) -> None:
    one, two, *_ = drafters_of(loaded)
    engine = engine_for(loaded, kv_tokens=160, block_size=4, max_sequences=4)
    engine.set_drafters(one, "v1", two, "v2", 0.5, salt=1)
    asked = requests(6, 50)
    for request in asked:
        engine.add(request)
    versions: dict[str, set[str | None]] = {request.request_id: set() for request in asked}
    ends = {}
    while engine.has_work:
        if engine.steps == 8:
            engine.set_drafters(one, "v1", two, "v2", 0.0, salt=2)
        if engine.steps == 12:
            engine.set_drafters(two, "v2", one, "v1", 1.0, salt=3)
        for output in engine.step():
            if output.counts is not None:
                ends[output.request_id] = output
        for slot in range(4):
            sequence = engine._scheduler.in_slot(slot)
            if sequence is not None:
                versions[sequence.request.request_id].add(sequence.version)
        engine.check_integrity()
    assert engine.cache_stats().preemptions > 0
    assert all(len(found) == 1 for found in versions.values()), versions
    assert {*versions["r0"], *versions["r1"], *versions["r2"]} == {"v1", "v2"}
    assert all(output.by_version == () for output in ends.values())


class Rebuilds:
    """Counts by state which slots were made anew from the ring."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slots: Counter[AmphistaServing] = Counter()
        split = AmphistaServing.split

        def counted(state: AmphistaServing, *arguments: Any) -> tuple[list[int], list[int]]:
            behind, stale = split(state, *arguments)
            self.slots[state] += len(stale)
            return behind, stale

        monkeypatch.setattr(AmphistaServing, "split", counted)

    def since(self) -> int:
        """How many since the last call."""
        count = self.slots.total()
        self.slots.clear()
        return count


@pytest.mark.parametrize("kernels", ["off", "wait"])
def test_no_state_is_rebuilt_but_of_sequences_whose_drafter_leaves(
    loaded: LoadedTarget, monkeypatch: pytest.MonkeyPatch, kernels: str
) -> None:
    one, two, three, *_ = drafters_of(loaded)
    engine = engine_for(loaded, kernels=kernels)
    engine.set_drafter(one, "v1")
    rebuilds = Rebuilds(monkeypatch)

    def some_steps(added: Sequence[GenerationRequest] = ()) -> int:
        for request in added:
            engine.add(request)
        for _ in range(6):
            engine.step()
            engine.check_integrity()
        return rebuilds.since()

    assert some_steps(requests(2, 200, "old")) == 2, "each once, for its prompt"
    engine.set_drafters(one, "v1", two, "v2", 1.0)
    assert some_steps() == 0, "a canary comes"
    assert some_steps(requests(3, 200, "new")) == 3
    engine.set_drafters(two, "v2", one, "v1", 0.1)
    assert some_steps() == 0, "it is promoted, the former champion controls"
    engine.set_drafters(two, "v2", three, "v3", 0.1)
    assert some_steps() == 2, "the control group ends, the next canary comes"
    engine.set_drafters(three, "v3", two, "v2", 0.9)
    engine.set_drafter(two, "v2")
    assert some_steps() == 0, "that is promoted and rolled back"
    engine.set_drafter(one, "v1")
    assert some_steps() == 5


def test_a_drafter_that_leaves_may_finish_what_it_began(
    loaded: LoadedTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three, *_ = drafters_of(loaded)
    engine = engine_for(loaded)
    engine.set_drafter(one, "v1")
    for request in requests(3, 60, "old"):
        engine.add(request)
    for _ in range(5):
        engine.step()
    rebuilds = Rebuilds(monkeypatch)
    engine.set_drafters(two, "v2", linger=True)
    engine.add(requests(1, 400, "new")[0])
    ends: dict[str, StepOutput] = {}
    while len(ends) < 3:
        assert len(engine._arms.drafters) == 2
        ends |= {o.request_id: o for o in engine.step() if o.finish_reason is not None}
        engine.check_integrity()
    assert rebuilds.since() == 1, "the new one's alone"
    assert all(end.drafter_version == "v1" and not end.by_version for end in ends.values())
    engine.step()
    assert engine._arms.alone and engine._arms.drafters[0][0] is two
    engine.set_drafters(three, "v3", linger=True)
    engine.set_drafters(one, "v1", linger=True)
    engine.step()
    assert rebuilds.since() == 0 and engine._arms.leaving is not None, "it still is the second version's"
    engine.set_drafter(one, "v1")
    engine.step()
    assert rebuilds.since() == 1 and engine._arms.alone
    engine.set_drafters(None, None, linger=True)
    assert engine._arms.alone


@pytest.mark.parametrize("kernels", ["off", "wait"])
def test_a_staged_drafter_is_only_put_in_its_place(
    loaded: LoadedTarget, decode, monkeypatch: pytest.MonkeyPatch, kernels: str
) -> None:
    one, two, three, *_ = drafters_of(loaded)
    asked = requests(4, 60)
    plain = decode(engine_for(loaded, speculation="off"), asked)
    engine = engine_for(loaded, kernels=kernels)
    engine.set_drafter(one, "v1")
    made: list[Drafter] = []
    for kind in {type(one), type(two)}:
        new_state = kind.new_state
        monkeypatch.setattr(kind, "new_state", lambda d, s, new=new_state: (made.append(d), new(d, s))[1])
    drafting = NativeBackend.drafting
    monkeypatch.setattr(NativeBackend, "drafting", lambda b, d, s: (made.append(d), drafting(b, d, s))[1])

    def between(step: int) -> None:
        if step == 3:
            thread = threading.Thread(target=engine.stage, args=(two,))
            thread.start()
            thread.join()
        elif step == 6:
            made.clear()
            engine.set_drafters(one, "v1", two, "v2", 0.5, salt=1)
            assert not made
        elif step == 9:
            engine.stage(two)
            engine.stage(three)
            made.clear()
            engine.set_drafters(three, "v3", two, "v2", 0.5, salt=1)
            assert not made

    assert decode(engine, asked, between) == plain
    assert engine.drafter_version == "v3"
    with pytest.raises(ConfigError, match="feature_window"):
        engine.stage(new_drafter("medusa", loaded.target, window=512))


def test_the_heads_run_once_per_arm_that_is_present(
    loaded: LoadedTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, *_ = drafters_of(loaded)
    engine = engine_for(loaded)
    calls: list[int] = []
    draft = engine._runner.draft
    monkeypatch.setattr(
        engine._runner,
        "draft",
        lambda state, sequences, *rest: (calls.append(len(sequences)), draft(state, sequences, *rest))[1],
    )

    def calls_of(count: int) -> list[int]:
        for request in requests(count, 30):
            engine.add(request)
        for _ in range(4):
            engine.step()
        calls.clear()
        engine.step()
        found = sorted(calls)
        for request in requests(count):
            engine.cancel(request.request_id)
        return found

    engine.set_drafter(one, "v1")
    assert calls_of(6) == [6]
    for share, expected in ((0.0, [6]), (1.0, [6])):
        engine.set_drafters(one, "v1", two, "v2", share)
        assert calls_of(6) == expected
    engine.set_drafters(one, "v1", two, "v2", 0.5, salt=1)
    seconds = sum(place(1, request) < 0.5 for request in requests(6))
    assert 0 < seconds < 6
    assert calls_of(6) == sorted([seconds, 6 - seconds])


@pytest.mark.parametrize("kernels", ["off", "wait"])
def test_two_alike_draft_what_one_would(loaded: LoadedTarget, kernels: str) -> None:
    """Every tree reaches its own sequence: the same nodes are accepted in the same steps."""
    one = drafters_of(loaded)[0]
    asked = [replace(r, sampling=replace(r.sampling, temperature=0.0)) for r in requests(7, 50)]
    alone, both = (engine_for(loaded, kernels=kernels) for _ in range(2))
    alone.set_drafter(one, "v1")
    both.set_drafters(one, "v1", one.clone(), "v2", 0.5, salt=1)
    expected, found = last_outputs(alone, asked), last_outputs(both, asked)
    assert {output.drafter_version for output in found.values()} == {"v1", "v2"}
    assert {n: o.counts for n, o in found.items()} == {n: o.counts for n, o in expected.items()}
    accepted = sum(output.counts.accepted_tokens for output in found.values() if output.counts is not None)
    assert accepted > 7


@pytest.mark.parametrize("kernels", ["off", "wait"])
@pytest.mark.parametrize("ngram", [False, True])
def test_a_bad_candidate_is_known_as_such_and_the_champion_is_believed_as_before(
    loaded: LoadedTarget, recall_drafter, kernels: str, ngram: bool
) -> None:
    asked = requests(24, 48)
    plain = engine_for(loaded, max_sequences=8, speculation="off", max_queue=100)
    texts = {r.request_id: list(r.prompt_ids) for r in asked}
    for request in asked:
        plain.add(request)
    for outputs in steps(plain):
        for output in outputs:
            texts[output.request_id] += output.token_ids
    good = recall_drafter(list(texts.values()), 0.9, 1)
    wrong = [[token ^ 1 if at % 2 else token for at, token in enumerate(text)] for text in texts.values()]
    bad = recall_drafter(wrong, 0.9, 2)
    engine = engine_for(loaded, kernels=kernels, ngram=ngram, max_queue=100)
    engine.set_drafters(good, "good", bad, "bad", 0.4, salt=3)
    ends = last_outputs(engine, asked)
    report = engine.speculation_report()
    assert report["second"]["version"] == "bad"
    champions, seconds = report["calibration"], report["second"]["calibration"]
    assert champions["depths"]["1"]["observed"] > 0.8
    assert abs(champions["depths"]["1"]["calibrated"] - champions["depths"]["1"]["observed"]) < 0.1
    assert seconds["depths"]["1"]["observed"] < 0.5
    assert abs(seconds["depths"]["1"]["calibrated"] - seconds["depths"]["1"]["observed"]) < 0.1
    by_version: dict[str | None, SpeculationCounts] = {}
    for output in ends.values():
        assert output.counts is not None
        by_version.setdefault(output.drafter_version, SpeculationCounts()).add(output.counts)
    tau = {version: counts.committed / counts.steps for version, counts in by_version.items()}
    assert tau["good"] > tau["bad"], "counts tell the arms apart"


def test_counts_of_a_sequence_are_split_by_the_versions_that_drafted_for_it(loaded: LoadedTarget) -> None:
    one, two, *_ = drafters_of(loaded)
    engine = engine_for(loaded)
    (request,) = requests(1, 60)
    engine.add(request)
    lengths: Counter[str | None] = Counter()
    last = None
    while engine.has_work:
        if engine.steps in (0, 20):
            engine.set_drafter(one, "v1")
        if engine.steps == 9:
            engine.set_drafter(two, "v2")
        (last,) = engine.step()
        lengths[engine.drafter_version] += len(last.token_ids)
    assert last is not None and last.drafter_version == "v1"
    assert_adds_up(last)
    assert [version for version, _ in last.by_version] == ["v2", "v1"]
    assert {version: counts.committed for version, counts in last.by_version} == lengths


def test_a_version_that_came_and_went_between_two_steps_leaves_no_trace(loaded: LoadedTarget) -> None:
    one, two, *_ = drafters_of(loaded)
    engine = engine_for(loaded)
    engine.set_drafter(one, "v1")
    (request,) = requests(1, 30)
    engine.add(request)
    for _ in range(4):
        engine.step()
    engine.set_drafter(two, "v2")
    engine.set_drafter(one, "v1")
    (last,) = last_outputs(engine, []).values()
    assert (last.drafter_version, last.by_version) == ("v1", ())
    assert last.counts is not None and last.counts.committed == 30


def test_adapters_are_the_champions(loaded: LoadedTarget, make_adapter: Callable[..., Any]) -> None:
    one, two, *_ = drafters_of(loaded)
    engine = engine_for(loaded)
    engine.set_drafters(one, "v1", two, "v2", 0.5, salt=1)
    engine.adapters.load("a", make_adapter(one, "default"))
    for request in requests(6, 80):
        engine.add(request)

    def places() -> tuple[list[bool], list[bool]]:
        """Whether each slot is adapted, by arm: the champion's, the second one's."""
        for _ in range(3):
            engine.step()
            engine.check_integrity()
        arms = engine._arms
        return tuple(  # type: ignore[return-value]
            [arm.state.place[slot] > 0 for slot in range(6)] if arm is not None and arm.state else []
            for arm in (arms.champion, arms.second)
        )

    champions = [place(1, request) >= 0.5 for request in requests(6)]
    assert places() == (champions, [False] * 6) and any(champions) and not all(champions)
    engine.set_drafters(one, "v1", two, "v2", 0.1)
    assert places() == (champions, [False] * 6), "another share disturbs no sequence"
    engine.set_drafter(one, "v1")
    assert places() == ([True] * 6, []), "who came over is adapted too"
    engine.set_drafters(two, "v2", one, "v1", 0.1)
    assert places() == ([False] * 6, [False] * 6)
    assert engine.adapters.report()["dropped"] == ["a"]
    engine.adapters.load("b", make_adapter(two, "default"))
    assert places() == ([False] * 6, [False] * 6), "all sequences are still the former champion's"
    engine.set_drafter(two, "v2")
    assert places() == ([True] * 6, [])


def test_what_can_not_be_set_changes_nothing(loaded: LoadedTarget) -> None:
    one, two, *_ = drafters_of(loaded)
    wide = new_drafter("amphista", loaded.target, **SIZES, num_heads=2, window=512)
    engine = engine_for(loaded, feature_window=64)
    engine.set_drafters(one, "v1", two, "v2", 0.5)
    arms = engine._arms
    for wrong, field in (
        ((two, "v2", wide, "v3", 0.5), "feature_window"),
        ((wide, "v3", two, "v2", 0.5), "feature_window"),
        ((one, "v1", one, "v2", 0.5), "second"),
        ((one, "v1", two, "v1", 0.5), "second"),
        ((one, "v1", two, "v2", 1.5), "share"),
        ((None, None, two, "v2", 0.5), "champion"),
    ):
        with pytest.raises(ConfigError, match=field):
            engine.set_drafters(*wrong)
    assert engine._arms is arms and engine.drafter_version == "v1"
    last_outputs(engine, requests(3, 10))
