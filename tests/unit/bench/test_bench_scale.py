"""`bench scale`: how costs are read, and how they are extrapolated."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from online_draft.bench.scale.counted_store import CountedStore, Tally
from online_draft.bench.scale.limits import BUCKETS, Limit, as_table, fan_out, limits_of
from online_draft.bench.scale.options import ScaleOptions
from online_draft.bench.scale.redis_costs import Reading, costs
from online_draft.bench.scale.report import print_report
from online_draft.errors import ConfigError

OPTIONS = ScaleOptions(rate=2.0, redis_mb=1000, store_ops=5000, store_mb_s=100)


def measured() -> dict[str, Any]:
    stretch = {
        "redis": {"commands": 12.0, "cpu_us": 350.0, "bytes_in": 900, "bytes_out": 400},
        "store": {"calls": 4.0, "us": {"list": 20.0}},
        "busy_calls": 4.0,
    }
    return {
        "replicas": 64,
        "idle": stretch,
        "busy": stretch,
        "crowd": {"replicas": 1000, "learner_look_ms": 2.0, "control_look_ms": 20.0, "status_bytes": 1000},
        "intake": {"per_s": 4000, "record_bytes": 850},
        "rollups": {"bytes_a_part": 200.0, "read_us_a_part": 10.0},
        "hashes": {"bytes_a_replica": 2000},
        "details_bytes": 8000,
        "connections": {"each": 7.0, "bytes": 2000, "most": 10_064},
        "bell": {"us_a_message": 50.0},
        "swap": {
            "calls_a_replica": 6.0,
            "kb_a_replica": 256.0,
            "peak_calls": 9,
            "missed": 0,
            "after_s": {"p50": 0.3, "p95": 0.5, "p100": 0.6},
        },
    }


def test_what_is_shared_gives_out_in_the_order_of_its_sizes() -> None:
    found = {limit.what: limit for limit in limits_of(measured(), OPTIONS)}
    assert found["Redis: CPU"].at == 2000
    assert found["Redis: connections"].at == (10_064 - 64) // 7
    assert found["learner: intake"].at == 1400, "2 records a second each"
    assert found["store: lookups and listings"].at == 1250
    assert found["control: look at replicas"].at == 25_000
    assert found["dashboard: 15 min in seconds"].at == 1111
    memory = found["Redis: memory"]
    assert memory.each == pytest.approx((BUCKETS * 200 + 2000 + 1000 + 8000 + 14_000) / 2**20)
    assert memory.used(10) == pytest.approx(20_000 * 1000 / 2**20 + 10 * memory.each)
    sizes = [limit.at for limit in limits_of(measured(), OPTIONS)]
    assert sizes == sorted(sizes, key=lambda at: at if at is not None else 10**9)


def test_what_costs_nothing_never_gives_out() -> None:
    assert Limit("x", "y", 1.0, 0.0, 5.0, "z").at is None
    assert Limit("x", "y", 9.0, 1.0, 5.0, "z").at == 0, "used up without any"


def test_a_fan_out_takes_as_long_as_the_store_reads() -> None:
    told = fan_out(measured(), OPTIONS, (10, 1000))
    assert told["seconds"]["63 MiB"] == {"10": 6.6, "1000": 660.6}


def test_costs_are_differences_for_each_replica_and_second() -> None:
    before = Reading(10.0, 1.0, 1000, 500, {"hset": (100, 300.0), "config|get": (1, 9.0)})
    after = Reading(20.0, 1.5, 3000, 700, {"hset": (300, 900.0), "xadd": (40, 80.0), "config|get": (5, 90.0)})
    told = costs(before, after, 4)
    assert told == {
        "commands": 6.0,
        "cpu_us": 12_500.0,
        "bytes_in": 50,
        "bytes_out": 5,
        "by_command": {"hset": {"per_s": 5.0, "us": 3.0}, "xadd": {"per_s": 1.0, "us": 2.0}},
    }


def test_a_store_counts_calls_bytes_and_how_many_at_once(tmp_path: Path) -> None:
    tally = Tally()
    store = CountedStore(tmp_path, tally)
    store.write_bytes("a/one", b"12345")
    assert store.list("a") == ["one"] and store.exists("a/one") and store.read_bytes("a/one") == b"12345"
    assert tally.calls == {"list": 1, "exists": 1, "read": 1} and tally.bytes == 5 and tally.peak == 1
    tally.clear()
    meeting = threading.Barrier(3)

    def call() -> None:
        with tally.count("list"):
            meeting.wait(10)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tally.peak, tally.calls["list"]) == (3, 3)


def test_the_report_names_every_limit() -> None:
    report, out = measured(), io.StringIO()
    report["limits"] = as_table(limits_of(report, OPTIONS), (64, 1000))
    print_report(report, Console(file=out, width=240))
    told = out.getvalue()
    assert all(limit["what"] in told for limit in report["limits"]) and "in 0.6 s with all" in told


@pytest.mark.parametrize(
    "wrong", [{"replicas": 0}, {"rate": 0.0}, {"tokens": 5}, {"spread": -1.0}, {"seconds": float("nan")}]
)
def test_options_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    (field,) = wrong
    with pytest.raises(ConfigError, match=field):
        ScaleOptions(**wrong)
