"""Drift over a real Redis: samples in, states out, with restarts between."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from online_draft.bench.drift.scenarios import SCENARIOS, samples
from online_draft.control.config import ControlConfig, ControlPlace
from online_draft.control.loop import ControlLoop
from online_draft.monitor.drift.config import DriftConfig
from online_draft.monitor.drift.samples import (
    MAX_SEGMENTS,
    DriftSample,
    Hits,
    publish_drift_samples,
    read_drift_samples,
    read_drift_segments,
)
from online_draft.monitor.drift.state import alarmed, read_drift_states
from online_draft.monitor.drift.watch import DriftWatch
from online_draft.redis_server import PrivateRedis
from online_draft.store import RedisKeys, connect_redis

KEYS = RedisKeys("drift")
TARGET = "llama-0"
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
SAMPLE = DriftSample("r1", "v1", Hits((3, 1), (4, 4)), Hits((2, 0), (4, 4)), 1_250_000, 2)


def test_samples_arrive_as_they_were(redis_server: PrivateRedis) -> None:
    client = connect_redis(redis_server.url)
    publish_drift_samples(client, KEYS, TARGET, "sql", [SAMPLE])
    client.xadd(KEYS.drift_samples(TARGET, "sql"), {"d": b"junk"})
    publish_drift_samples(client, KEYS, TARGET, "sql", [SAMPLE])
    read = read_drift_samples(client, KEYS, TARGET, "sql", "")
    assert [sample for _, sample in read] == [SAMPLE, None, SAMPLE]
    assert SAMPLE.champion.rate == 0.5 and SAMPLE.entropy == 0.625
    assert read_drift_samples(client, KEYS, TARGET, "sql", read[0][0]) == read[1:]
    assert read_drift_segments(client, KEYS, TARGET) == ["sql"]
    assert read_drift_segments(client, KEYS, "another") == []
    assert 0 < client.ttl(KEYS.drift_samples(TARGET, "sql")) <= KEYS.drift_samples_ttl_s
    client.close()


def test_samples_and_segments_are_bounded(redis_server: PrivateRedis) -> None:
    client = connect_redis(redis_server.url)
    publish_drift_samples(client, KEYS, TARGET, "sql", [SAMPLE] * 4000)
    assert client.xlen(KEYS.drift_samples(TARGET, "sql")) <= KEYS.drift_samples_maxlen + 128
    for number in range(MAX_SEGMENTS + 5):
        publish_drift_samples(client, KEYS, TARGET, f"s{number}", [SAMPLE])
    assert len(read_drift_segments(client, KEYS, TARGET)) == MAX_SEGMENTS
    client.close()


def test_an_alarm_is_announced_once_and_outlives_its_watch(redis_server: PrivateRedis) -> None:
    client = connect_redis(redis_server.url)
    watch = DriftWatch(client, KEYS, TARGET)
    assert watch.tick(time.time()) == ()
    assert read_drift_states(client, KEYS, TARGET) == {}
    for segment, name in (("sql", "a worse drafter"), ("chat", "nothing changes")):
        publish_drift_samples(client, KEYS, TARGET, segment, list(samples(BY_NAME[name], 0, 300, 200)))
    (raised,) = watch.tick(time.time() + 10)
    assert raised.segment == "sql" and raised.alarm
    states = read_drift_states(client, KEYS, TARGET)
    assert alarmed(states) == ("sql",)
    assert (states["sql"].verdict, states["chat"].verdict) == ("regressed", "none")
    assert watch.tick(time.time() + 20) == ()

    again = DriftWatch(client, KEYS, TARGET)
    assert again.tick(time.time() + 30) == ()
    assert read_drift_states(client, KEYS, TARGET) == states
    assert 0 < client.ttl(KEYS.drift_states(TARGET)) <= KEYS.drift_ttl_s
    client.close()


def test_control_watches_and_raises_the_alarm(
    redis_server: PrivateRedis, tmp_path: Path, until: Callable[..., Any]
) -> None:
    client = connect_redis(redis_server.url)
    place = ControlPlace(TARGET, str(tmp_path), redis_server.url, KEYS.prefix)
    control = ControlLoop(place, ControlConfig())
    control.tick()
    assert control.status()["drift"] == {} and control.alarms() == []
    drifting = list(samples(BY_NAME["another domain"], 0, 300, 200))
    publish_drift_samples(client, KEYS, TARGET, "sql", drifting)
    (alarm,) = until(lambda: control.tick() or control.alarms())
    assert (alarm.code, alarm.about) == ("drift", "sql")
    assert control.status()["drift"] == {"sql": "stale"}
    patient = ControlLoop(place, ControlConfig(drift=DriftConfig(settle=256)))
    patient.tick()
    assert patient.status()["drift"] == {"sql": "unknown"}
    client.close()


def test_a_redis_that_is_away_or_empty_is_unknown_and_no_alarm(
    redis_server: PrivateRedis, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect_redis(redis_server.url)
    watch = DriftWatch(client, KEYS, TARGET)
    publish_drift_samples(client, KEYS, TARGET, "sql", list(samples(BY_NAME["another domain"], 0, 300, 200)))
    assert len(watch.tick(time.time())) == 1
    redis_server.stop()
    for later in (10, 20):
        assert watch.tick(time.time() + later) == ()
    assert sum("can't be watched" in record.message for record in caplog.records) == 1
    redis_server.start()
    assert watch.tick(time.time() + 30) == ()
    assert alarmed(read_drift_states(client, KEYS, TARGET)) == ()
    client.close()
