"""Messages to a real HTTP receiver: tried again, told once, also over restarts of control."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from online_draft.control.alarms import Alarm
from online_draft.control.loop import ControlLoop
from online_draft.control.memory import Memory
from online_draft.control.webhooks.config import WebhookConfig
from online_draft.control.webhooks.courier import MAX_WAITING, SIGNATURE, Courier
from online_draft.control.webhooks.herald import Herald
from online_draft.control.webhooks.message import Message, as_json
from online_draft.launch.ports import free_port
from online_draft.registry.journal import Decision
from online_draft.store import RedisKeys

from .receiver import HANG, receiving

Until = Callable[..., None]
DRIFT = Alarm("drift", "sql", "it fell", 1_000)
LAG = Alarm("buffer_lag", "learner", "10 records wait")


def message(number: int = 0) -> Message:
    return Message.new("raised", "tiny", "drift", f"segment-{number}", "it fell", 1, 1_000 + number)


@pytest.fixture
def courier() -> Iterator[Callable[..., Courier]]:
    """`courier(url, …)` tries again at once."""
    made: list[Courier] = []

    def make(url: str, **more: Any) -> Courier:
        given = {"timeout_s": 5.0, "first_backoff_s": 0.01, "now_ms": lambda: 1_000, **more}
        made.append(Courier("json", url, as_json, **given))
        return made[-1]

    yield make
    for one in made:
        one.close(10)


def test_a_message_comes_signed(courier: Any, until: Until) -> None:
    with receiving() as receiver:
        courier(receiver.url, secret="hush").put(message())
        until(lambda: receiver.taken)
        headers, body = receiver.asked[0]
        assert json.loads(body)["about"] == "segment-0" and headers["Content-Type"] == "application/json"
        assert headers[SIGNATURE] == "sha256=" + hmac.new(b"hush", body, hashlib.sha256).hexdigest()


def test_a_receiver_that_fails_twice_gets_all_in_order_and_once(courier: Any, until: Until) -> None:
    with receiving(500, 429) as receiver:
        one = courier(receiver.url)
        for number in range(3):
            one.put(message(number))
        until(lambda: one.status()["sent"] == 3)
        assert [taken["about"] for taken in receiver.taken] == ["segment-0", "segment-1", "segment-2"]
        assert len(receiver.asked) == 5 and SIGNATURE not in receiver.asked[0][0]
        assert one.status() == {
            "sent": 3, "refused": 0, "given_up": 0, "dropped": 0, "waiting": 0, "trouble": "",
        }  # fmt: skip


def test_what_a_receiver_refuses_for_good_is_not_sent_again(courier: Any, until: Until) -> None:
    with receiving(404, 302) as receiver:
        one = courier(receiver.url)
        for number in range(3):
            one.put(message(number))
        until(lambda: one.status()["sent"] == 1)
        assert one.status()["refused"] == 2 and len(receiver.asked) == 3


def test_what_is_too_old_is_given_up(courier: Any, until: Until) -> None:
    clock = [1_000]
    one = courier(f"http://127.0.0.1:{free_port('127.0.0.1')}/", now_ms=lambda: clock[0], give_up_s=60)
    one.put(message())
    until(lambda: one.status()["trouble"] == "no answer: ConnectError")
    assert one.status()["waiting"] == 1
    clock[0] += 61_000
    until(lambda: one.status()["given_up"] == 1)
    assert one.waiting == []


def test_the_queue_is_bounded_and_the_oldest_go(courier: Any, until: Until) -> None:
    with receiving(HANG) as receiver:
        one = courier(receiver.url)
        one.put(message(0))
        until(lambda: receiver.asked)
        for number in range(1, MAX_WAITING + 5):
            one.put(message(number))
        assert one.status()["dropped"] == 5 and one.status()["waiting"] == MAX_WAITING
        receiver.release.set()
        until(lambda: one.status()["waiting"] == 0)
        assert [taken["about"] for taken in receiver.taken][:2] == ["segment-5", "segment-6"]


def test_no_line_and_no_status_has_the_url(
    courier: Any, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with receiving(500, path="/T0/s3cret") as receiver:
        one = courier(receiver.url, secret="hush")
        one.put(message())
        until(lambda: one.status()["sent"] == 1)
    assert "takes no messages: it answers with status 500" in caplog.text
    assert "s3cret" not in caplog.text and "hush" not in caplog.text and "s3cret" not in str(one.status())


@pytest.fixture
def herald(client: Any) -> Iterator[Callable[..., Herald]]:
    """`herald(clock, …)` of a control that was just started; Redis is the same."""
    made: list[Herald] = []

    def make(clock: list[int], redis: Any = client, **config: Any) -> Herald:
        memory = Memory(redis, RedisKeys("hook"), "webhooks")
        made.append(Herald(WebhookConfig(model="tiny", **config), memory, lambda: clock[0]))
        return made[-1]

    yield make
    for one in made:
        one.close()


def sent(herald: Any) -> int:
    """Messages that the receiver of JSON took, and of which the herald knows that."""
    return int(herald.status()["json"]["sent"])


def told(receiver: Any) -> list[tuple[str, str, str]]:
    return [(taken["event"], taken["code"], taken["about"]) for taken in receiver.taken]


def test_an_alarm_is_told_once_until_it_cleared_whoever_is_control(herald: Any, until: Until) -> None:
    clock = [1_000_000]
    with receiving() as receiver:
        one = herald(clock, url=receiver.url)
        for _ in range(3):
            one.tell("t", [DRIFT], [])
            clock[0] += 10_000
        until(lambda: sent(one) == 1)
        one.tell("t", [replace(DRIFT, message="it fell further")], [])
        one.close()

        clock[0] += 3_600_000
        another = herald(clock, url=receiver.url)
        another.tell("t", [], [])  # perhaps it doesn't know yet
        clock[0] += 20_000
        another.tell("t", [DRIFT, LAG], [])
        until(lambda: len(receiver.taken) == 2)
        clock[0] += 31_000
        another.tell("t", [LAG], [])
        clock[0] += 1_000
        another.tell("t", [DRIFT, LAG], [])
        until(lambda: len(receiver.taken) == 4)
        assert told(receiver) == [
            ("raised", "drift", "sql"),
            ("raised", "buffer_lag", "learner"),
            ("cleared", "drift", "sql"),
            ("raised", "drift", "sql"),
        ]
        assert receiver.taken[0]["since_ms"] == 1_000 and receiver.taken[0]["model"] == "tiny"


def test_nothing_has_cleared_while_control_sees_nothing(herald: Any, until: Until) -> None:
    clock = [1_000_000]
    with receiving() as receiver:
        one = herald(clock, url=receiver.url)
        one.tell("t", [DRIFT], [])
        for _ in range(4):
            clock[0] += 20_000
            one.tell("t", [Alarm("counts_unreadable", "control", "no Redis")], [])
        clock[0] += 20_000
        one.tell("t", [DRIFT], [])
        clock[0] += 31_000
        one.tell("t", [], [])
        until(lambda: len(receiver.taken) == 4)
        assert [event for event, _, _ in told(receiver)] == ["raised", "raised", "cleared", "cleared"]


def test_what_was_not_delivered_is_after_a_restart(herald: Any, until: Until) -> None:
    clock = [1_000_000]
    nobody = f"http://127.0.0.1:{free_port('127.0.0.1')}/"
    one = herald(clock, url=nobody)
    one.tell("t", [DRIFT], [])
    one.close()
    with receiving() as receiver:
        another = herald(clock, url=receiver.url)
        another.tell("t", [DRIFT], [])
        until(lambda: sent(another) == 1)
        another.tell("t", [DRIFT], [])
        another.close()
        herald(clock, url=receiver.url).tell("t", [DRIFT, LAG], [])
        until(lambda: len(receiver.taken) == 2)
        assert told(receiver)[1] == ("raised", "buffer_lag", "learner")


def test_a_receiver_that_hangs_keeps_neither_control_nor_the_other_one_waiting(
    herald: Any, until: Until
) -> None:
    clock = [1_000_000]
    with receiving(HANG) as stuck, receiving() as receiver:
        one = herald(clock, url=stuck.url, slack_url=receiver.url, timeout_s=1.0)
        one.tell("t", [DRIFT], [])
        until(lambda: stuck.asked)
        one.tell("t", [DRIFT, LAG], [])
        until(lambda: len(receiver.taken) == 2)
        assert stuck.taken == [] and one.status()["json"]["waiting"] == 2
        assert receiver.taken[0]["text"].startswith(":rotating_light: *drift* (tiny) sql")
        until(lambda: one.status()["json"]["trouble"] == "no answer: ReadTimeout")
        until(lambda: told(stuck) == [("raised", "drift", "sql"), ("raised", "buffer_lag", "learner")])


def rollback(seq: int, at_ms: int, kind: Any = "roll_back") -> Decision:
    return Decision(seq, kind, "v1", "control", "v2 is worse", {}, at_ms)


def test_a_rollback_is_told_once(herald: Any, until: Until) -> None:
    clock = [1_000_000]
    with receiving() as receiver:
        journal = [rollback(1, 5), rollback(2, 6, "promote")]
        one = herald(clock, url=receiver.url)
        one.tell("t", [], journal)
        journal.append(rollback(3, 1_000_500))
        one.tell("t", [], journal)
        until(lambda: sent(one) == 1)
        one.tell("t", [], journal)
        one.close()
        journal.append(rollback(4, 1_000_600))  # while nobody was control
        clock[0] += 9_000
        another = herald(clock, url=receiver.url)
        another.tell("t", [], journal)
        another.tell("another target", [], [rollback(1, 1_000_700)])
        clock[0] += 1_000
        another.tell("another target", [], [rollback(1, 1_000_700), rollback(2, clock[0])])
        until(lambda: len(receiver.taken) == 3)
        assert [taken["at_ms"] for taken in receiver.taken] == [1_000_500, 1_000_600, clock[0]]
        assert receiver.taken[0]["code"] == "rollback" and receiver.taken[0]["about"] == "v1"
        assert receiver.taken[0]["message"] == "by control: v2 is worse"


def test_without_redis_alarms_are_told_and_then_remembered(
    herald: Any, redis_server: Any, until: Until
) -> None:
    clock = [1_000_000]
    with receiving() as receiver:
        redis_server.stop()
        one = herald(clock, url=receiver.url)
        one.tell("t", [DRIFT], [])
        until(lambda: sent(one) == 1)
        redis_server.start()
        one.tell("t", [DRIFT], [])
        one.close()
        herald(clock, url=receiver.url).tell("t", [DRIFT, LAG], [])
        until(lambda: len(receiver.taken) == 2)
        assert told(receiver)[1] == ("raised", "buffer_lag", "learner")


def test_control_tells_of_a_stale_replica_and_of_a_rollback_over_a_restart(house: Any, until: Until) -> None:
    with receiving() as receiver:
        webhooks = WebhookConfig(receiver.url, secret="hush", model="tiny")

        def control() -> ControlLoop:
            return ControlLoop(house.place, house.config, now_ms=lambda: house.now_ms, webhooks=webhooks)

        one = control()
        house.say("r1", "v0000-before")
        one.tick()
        house.later(60)
        house.say("r1", "v0000-before")
        one.tick()
        version = house.propose()
        one.tick()
        house.later(90)
        house.say("r1", "v0000-before")
        one.tick()
        until(lambda: one.status()["webhooks"]["json"]["sent"] == 1)
        one.tick()
        house.serve(champion=1.4, second=2.8)
        one.close()

        another = control()
        house.say("r1", "v0000-before")
        another.tick()
        assert house.kinds[-1] == "roll_back"
        until(lambda: len(receiver.taken) == 2)
        another.tick()
        assert another.status()["webhooks"]["json"]["sent"] == 1
        another.close()
        assert told(receiver) == [("raised", "stale_version", "r1"), ("decided", "rollback", "baseline")]
        assert f"by control: {version} is worse than baseline live" in receiver.taken[1]["message"]
