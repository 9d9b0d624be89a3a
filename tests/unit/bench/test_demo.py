from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console

from online_draft.bench.demo.options import DemoOptions
from online_draft.bench.demo.run import DONE, FAILED, MISSED, Outcome, Player
from online_draft.bench.demo.tally import Phase
from online_draft.bench.demo.traffic import Ask, Burst, Client, Reply
from online_draft.bench.demo.view import LineView, Scene, phase_table, picture, sparkline

OPTIONS = DemoOptions(first_requests=8, burst=4, window=4, pause_s=0.0, twin_every=2)


def reply(steps: int = 10, committed: int = 20, tokens: tuple[int, ...] = (1, 2), **changes: Any) -> Reply:
    ask = changes.pop("ask", Ask("sql", "p", 0, 0.6, 8))
    return Reply(ask, (1,), tokens, steps, committed, **{"version": "v", **changes})


class FakeClient:
    """Answers with a τ that depends on the domain and, after a promotion, rises."""

    def __init__(self, tau: dict[str, float], promote_after: int = 10**9) -> None:
        self.tau = tau
        self.promote_after = promote_after
        self.sent: list[Ask] = []
        self.plain = 0

    async def burst(self, asks: Sequence[Ask], plain: bool = False) -> Burst:
        if plain:
            self.plain += len(asks)
            return Burst(tuple(reply(20, 20, ask=ask) for ask in asks), 1.0)
        self.sent += asks
        rise = 1.0 if len(self.sent) > self.promote_after else 0.0
        tau, version = self.tau[asks[0].domain] + rise, "v1" if rise else "v0"
        replies = [reply(10, round(10 * tau), ask=ask, version=version) for ask in asks]
        return Burst(tuple(replies), 0.5)

    async def status(self) -> dict[str, Any]:
        promoted = int(len(self.sent) > self.promote_after)
        return {
            "ladder": {"champion": "v1", "proposed": promoted, "promoted": promoted, "refused": 0},
            "decisions": [
                {"seq": 1, "kind": "promote", "version": "narrow", "actor": "bootstrap", "reason": "first"}
            ],
        }


def player(client: Any, options: DemoOptions = OPTIONS) -> tuple[Player, io.StringIO]:
    out = io.StringIO()
    view = LineView(Console(file=out, width=200))
    return Player(options, client, view, Scene("http://127.0.0.1:1", "m")), out


async def test_the_first_domain_gets_its_requests_and_the_second_ends_with_the_margin() -> None:
    client = FakeClient({"sql": 2.0, "math": 1.2}, promote_after=16)
    first, second = Phase("sql", OPTIONS.window), Phase("math", OPTIONS.window)
    playing, out = player(client)
    assert not await playing.play(first, last=False)
    assert len(first.replies) == 8 and first.tau_final == first.tau_at_shift == 2.0
    assert await playing.play(second, last=True)
    assert second.tau_at_shift == pytest.approx(1.2) and second.tau_final == pytest.approx(2.2)
    assert len({ask.prompt for ask in client.sent}) == len(client.sent)
    assert "promote   narrow" in out.getvalue() and client.plain >= 12


async def test_gives_up_when_time_is_over() -> None:
    options = DemoOptions(minutes=0.0, burst=2, window=2, pause_s=0.0)
    playing, _ = player(FakeClient({"sql": 1.2}), options)
    phase = Phase("sql", 2)
    assert not await playing.play(phase, last=True)
    assert phase.pairs, "speeds are measured all the same"


async def test_a_rise_without_a_promotion_does_not_count() -> None:
    client = FakeClient({"math": 1.2})
    options = DemoOptions(minutes=0.005, burst=4, window=4, pause_s=0.0)
    phase = Phase("math", 4)
    phase.add(Burst(tuple(reply(10, 11) for _ in range(4)), 1.0))
    client.tau["math"] = 3.0
    playing, _ = player(client, options)
    assert not await playing.play(phase, last=True)
    assert phase.tau_final == 3.0


def test_the_version_of_a_burst_is_that_of_most_of_its_requests() -> None:
    replies = [reply(10, 11, version=version) for version in ("v2", "v2", "v1")]
    assert Burst(tuple(replies), 1.0).version == "v2" and Burst((), 1.0).version is None


def test_the_json_has_the_promised_form() -> None:
    phase = Phase("math", 2)
    burst = Burst((reply(10, 12), reply(10, 12), reply(10, 30), reply(10, 30)), 2.0)
    phase.add(burst)
    phase.add_twin(burst, Burst((reply(), reply(tokens=(1, 9)), reply(), reply()), 4.0))
    outcome = Outcome([phase], {"proposed": 2, "promoted": 1, "refused": 1}, near_ties=1, reached=True)
    assert outcome.as_json() == {
        "phases": [
            {
                "segment": "math",
                "requests": 4,
                "tau_at_shift": 1.2,
                "tau_final": 3.0,
                "tokens_per_second": 4.0,
                "plain_tokens_per_second": 2.0,
            }
        ],
        "versions": {"proposed": 2, "promoted": 1, "refused": 1},
        "failed_requests": 0,
        "changed_outputs": 0,
        "near_ties": 1,
    }
    assert [pair[1].token_ids for pair in phase.differing()] == [(1, 9)]


def test_exit_codes() -> None:
    assert Outcome(reached=True).exit_code == DONE
    assert Outcome(reached=False).exit_code == MISSED
    assert Outcome(reached=True, changed=1).exit_code == FAILED
    phase = Phase("sql", 2)
    phase.add(Burst((Reply(Ask("sql", "p", 0, 0.0, 1), error="503: busy"),), 1.0))
    assert Outcome([phase], reached=True).exit_code == FAILED
    assert phase.replies == [] and Outcome([phase]).failures == ["503: busy"]


async def test_a_request_that_cannot_be_sent_is_a_failed_one() -> None:
    async with Client("http://127.0.0.1:9", "m", "k", 2) as client:
        burst = await client.burst([Ask("sql", "p", 0, 0.0, 1)])
        assert await client.status() is None
    assert burst.replies[0].error is not None and burst.replies[0].error.startswith("ConnectError")


def test_the_picture_can_be_drawn_with_and_without_news() -> None:
    phase = Phase("sql", 2)
    console = Console(file=io.StringIO(), width=120)
    console.print(picture(Scene("http://x", "m", [phase])))
    phase.add(Burst((reply(), reply(), reply(), reply()), 1.0))
    look = {"look": 1, "records": 20, "passed": True, "reason": "gain +5.00%"}
    learner = {"state": "training", "reason": "", "slices": 5, "loss": 1.5, "last_look": look}
    console.print(
        picture(Scene("http://x", "m", [phase], {"learner": learner, "ladder": {"champion": "v2"}}))
    )
    console.print(phase_table([phase], with_trend=False))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "look 1 on 20 held-out records passed" in shown and "drafter v2" in shown
    assert sparkline([1.0, 2.0, 3.0]) == "▁▅█"
