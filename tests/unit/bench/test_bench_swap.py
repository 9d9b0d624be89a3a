"""What `bench swap` says about swaps is what happened in the engine."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from online_draft.bench.swap.measure import again, check, decode_plainly
from online_draft.bench.swap.options import BEHIND, SwapOptions
from online_draft.bench.swap.report import (
    Checked,
    Passage,
    following_extras,
    ladder_dip,
    quiet_extras,
    swap_report,
    swapping_extras,
    tau_dip,
    tau_of,
)
from online_draft.bench.swap.streams import Answer, Step, Streams
from online_draft.bench.swap.swapping import Stint, by_ladder, swap_under_load
from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.errors import ConfigError


class CountingAudit:
    """Every difference is a change: on one machine and in one process there is none."""

    def differences(self, requests: Any, expected: Any, actual: Any) -> dict[str, int]:
        changed = sum(a != b for a, b in zip(expected, actual, strict=True))
        return {"near_tie": 0, "changed": changed}


def requests(count: int, tokens: int = 24) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            str(i), (i + 1, 2, 3), SamplingParams(0.5, max_tokens=tokens, ignore_eos=True, seed=i)
        )
        for i in range(count)
    ]


def engine(loaded: Any, count: int) -> Engine:
    config = EngineConfig(
        max_sequences=count,
        tree_nodes=6,
        speculation="always",
        ngram=False,
        prefix_cache=False,
        kernels="off",
    )
    return Engine(loaded, config)


def steps(*tokens: int, seconds: float = 1.0, sequences: int = 1) -> list[Step]:
    return [Step(seconds, number, sequences, steady=True) for number in tokens]


def test_swaps_under_load_change_no_answer(traffic: Any) -> None:
    served, asked = engine(traffic.loaded, 3), requests(7)
    expected, plain = decode_plainly(engine(traffic.loaded, 3), asked, 3)
    assert set(expected) == set(range(7)) and {len(answer) for answer in expected.values()} == {24}
    assert any(step.steady for step in plain) and all(step.tokens == step.sequences for step in plain)
    versions, makers = [], set()

    def fetch(number: int) -> Any:
        versions.append(served.drafter_version)
        makers.add(threading.current_thread().name)
        return traffic.drafter(seed=number)

    streams = Streams(served, again(asked), 3)
    stints = swap_under_load(served, streams, fetch, swaps=5, steps=BEHIND + 1)
    assert versions == [None, "0", "1", "2", "3", "4"] and served.drafter_version == "5"
    assert makers == {"MainThread", "staging_0"}
    assert [stint.which for stint in stints] == [1, 0, 1, 0, 1]
    assert all(stint.swap_s > 0 and stint.staging_s and stint.quiet[0].steady for stint in stints)
    assert not any(stint.before for stint in stints)
    assert all(len(stint.quiet) >= BEHIND + 1 for stint in stints)
    checked = check(streams, expected, CountingAudit())  # type: ignore[arg-type]
    assert (checked.failed, checked.changed) == (0, 0) and checked.requests > 7
    streams.answers[0].token_ids[3] += 1
    assert check(streams, expected, CountingAudit()).changed == 1  # type: ignore[arg-type]
    assert served.load() == (0, 0)
    served.check_integrity()


def test_on_the_ladder_every_sequence_keeps_its_drafter(traffic: Any) -> None:
    served, asked = engine(traffic.loaded, 3), requests(7)
    expected, _ = decode_plainly(engine(traffic.loaded, 3), asked, 3)
    streams = Streams(served, again(asked), 3)
    lineups = []
    change = served.set_drafters

    def noting(
        champion: Any, version: Any, second: Any = None, other: Any = None, *rest: Any, **more: Any
    ) -> None:
        lineups.append((version, other))
        change(champion, version, second, other, *rest, **more)

    served.set_drafters = noting  # type: ignore[method-assign]
    stints = swap_under_load(
        served, streams, lambda number: traffic.drafter(seed=number), swaps=2, steps=BEHIND + 1, way=by_ladder
    )
    assert lineups == [("0", None), ("0", "1"), ("1", "0"), ("1", None), ("1", "2"), ("2", "1"), ("2", None)]
    assert [stint.which for stint in stints] == [0, 1, 1, 1, 0, 0]
    assert [stint.staging_s is None for stint in stints] == [False, True, True] * 2
    assert all(len(stint.before) == BEHIND + 1 for stint in stints)
    checked = check(streams, expected, CountingAudit())  # type: ignore[arg-type]
    assert (checked.failed, checked.changed) == (0, 0)
    assert {answer.version for answer in streams.answers} == {"0", "1", "2"}, "nobody's drafter changed"
    assert all(sum(answer.steps.values()) == len(answer.token_ids) - 1 for answer in streams.answers)
    dip = ladder_dip(Passage(stints, streams))
    assert dip is not None and 0.5 < dip < 2


def test_streams_keep_up_the_load_and_tell_steady_steps(traffic: Any) -> None:
    served = engine(traffic.loaded, 2)
    streams = Streams(served, iter(requests(3, tokens=4)), 2)
    assert Streams(served, (), 2).steady is False
    first = streams.step()
    assert (first.steady, first.tokens, first.sequences) == (False, 0, 0), "prompts were taken in"
    assert (sum(served.load()), streams.steady) == (2, True)
    assert [step.steady for step in streams.finish(no_more=False)] == [True] * 3 + [False] * 4
    assert {answer.request.request_id for answer in streams.answers} == {"0", "1", "2"}
    streams = Streams(served, again(requests(1, tokens=4)), 2)
    streams.step()
    assert len(streams.finish(no_more=True)) == 3
    assert [answer.request.request_id for answer in streams.answers] == ["0:0", "1:0"]


def test_requests_that_end_badly_are_counted(traffic: Any) -> None:
    hopeless = [replace(request, deadline_s=1e-9) for request in requests(2)]
    streams = Streams(engine(traffic.loaded, 2), iter(hopeless), 2)
    streams.finish(no_more=False)
    assert (streams.failed, streams.answers) == (2, [])
    assert check(streams, {}, CountingAudit()) == Checked(2, 2, 0, 0)  # type: ignore[arg-type]


def test_streams_that_always_take_in_a_prompt_are_refused(traffic: Any) -> None:
    streams = Streams(engine(traffic.loaded, 2), again(requests(2, tokens=1)), 2)
    with pytest.raises(ConfigError, match="streams"):
        swap_under_load(engine(traffic.loaded, 2), streams, lambda n: traffic.drafter(), 1, BEHIND + 1)


def test_requests_come_again_with_their_seeds() -> None:
    made = list(islice(again(requests(2)), 5))
    assert [request.request_id for request in made] == ["0:0", "0:1", "1:0", "1:1", "2:0"]
    assert [request.sampling.seed for request in made] == [0, 1, 0, 1, 0]


def test_a_swap_costs_itself_and_what_the_next_step_takes_longer() -> None:
    behind = steps(2, seconds=3.0) + steps(*[2] * 7, seconds=1.0) + steps(2, seconds=1.25)
    stint = Stint(0, 0.0, 0.25, quiet=behind + steps(2, 2, 2, seconds=1.0) + steps(2, seconds=1.5))
    assert swapping_extras([stint]) == [2.25]
    assert following_extras([stint]) == [0.0] * 7 + [0.25]
    assert quiet_extras([stint]) == [0.0, 0.0, 0.0, 0.5]
    stint.quiet[1:] = [Step(9.0, 2, 1, steady=False)]
    assert swapping_extras([stint]) == [], "there is nothing like it"
    stint.before = steps(2, 2, seconds=2.0)
    assert swapping_extras([stint]) == [1.25], "but for what came before"


def test_a_dip_is_measured_against_the_same_drafter() -> None:
    good = Stint(0, 0.0, 0.0, quiet=steps(*[4] * BEHIND, *[4] * 10), beside=steps(*[4] * 30))
    bad = Stint(1, 0.0, 0.0, quiet=steps(*[2] * BEHIND, *[2] * 10))
    assert (tau_of([good, bad], 0), tau_of([good, bad], 1)) == (4.0, 2.0)
    assert tau_dip([good, bad]) == 1.0
    good.quiet[:BEHIND] = steps(*[2] * BEHIND)
    assert tau_dip([good, bad]) == pytest.approx((2 + 2) / (4 + 2))
    assert tau_dip([]) is None and tau_of([], 0) is None


def test_a_dip_on_the_ladder_is_measured_by_request(traffic: Any) -> None:
    (request,) = requests(1)
    streams = Streams(engine(traffic.loaded, 1), (), 1)
    near, far = 7, 7 + BEHIND
    streams.answers += [
        Answer(request, [], "2", {near: 3, far: 4, far + 1: 4}),
        Answer(request, [], "3", {near: 1, far: 2}),
        Answer(request, [], None, {near: 100}),
    ]
    passage = Passage([Stint(0, 0.0, 0.0, first=near)], streams)
    assert ladder_dip(passage) == pytest.approx((3 + 1) / (4 + 2))
    assert ladder_dip(Passage([], streams)) is None


def test_the_report_is_in_plain_steps(traffic: Any) -> None:
    quiet = steps(*[3] * (BEHIND + 5), seconds=0.004)
    quiet[0] = replace(quiet[0], seconds=0.005)
    stints = [
        Stint(number % 2, 0.02, 0.001, quiet=list(quiet), beside=steps(3, seconds=0.006)) for number in (1, 2)
    ]
    plain = [*steps(1, 1, seconds=0.002), Step(0.5, 0, 0, steady=False)]
    passage = Passage(stints, Streams(engine(traffic.loaded, 1), (), 1))
    ladder = Passage([*stints, Stint(0, None, 0.002, quiet=list(quiet))], passage.streams)
    checked = Checked(9, 0, 0, 1) + Checked(1, 0, 0, 0)
    options = SwapOptions(swaps=2)
    report = swap_report(options, "tiny", ("a", "b"), "native", passage, ladder, plain, checked)
    assert (report["swaps"], report["failed_requests"], report["changed_outputs"]) == (2, 0, 0)
    assert (report["requests"], report["near_ties"]) == (10, 1)
    assert report["path"]["direct"].items() <= report.items()
    assert [report["path"][path]["lineups"] for path in ("direct", "ladder")] == [2, 3]
    assert report["path"]["ladder"]["swap_ms"]["p99"] > 1.0
    assert report["plain_step_ms"] == 2.0 and report["swap_ms"] == {"p50": 1.0, "p99": 1.0}
    assert report["swapping_step_extra_over_plain_step"] == {"p50": 1.0, "p99": 1.0}
    assert report["quiet_step_extra_over_plain_step"]["p99"] == 0.0
    assert report["step_beside_staging_over_quiet_step"] == 1.5
    assert report["tau"] == {"a": 3.0, "b": 3.0} and report["tau_dip"] == 1.0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"swaps": 0}, "swaps"),
        ({"streams": 0}, "streams"),
        ({"tree_nodes": 0}, "tree-nodes"),
        ({"steps": BEHIND}, "steps"),
        ({"requests": 3}, "requests"),
        ({"max_new_tokens": 1}, "max-new-tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"kernels": "auto"}, "kernels"),
        ({"target": "elsewhere"}, "drafter"),
    ],
)
def test_the_option_is_named(changes: dict[str, Any], named: str) -> None:
    SwapOptions().check()
    with pytest.raises(ConfigError) as caught:
        SwapOptions(**changes).check()
    assert caught.value.field == named
