"""Token buckets as one number, and the shares of them while Redis is away."""

from __future__ import annotations

import random

import pytest

from online_draft.serve.access.bucket import SECOND, Demand, Level
from online_draft.serve.access.errors import duration
from online_draft.serve.access.local import LocalBuckets


def demand(amount: float = 1, per_minute: int = 60, burst_s: float = 60) -> Demand:
    return Demand("k", "requests", per_minute, burst_s, amount)


def test_a_full_bucket_holds_its_burst_and_refills_at_its_rate() -> None:
    buckets, now = LocalBuckets(), 1e15
    granted = sum(buckets.take([demand()], 1, now, False).met for _ in range(100))
    assert granted == 60
    verdict = buckets.take([demand()], 1, now, False)
    assert verdict.levels == (Level("requests", 60, 0, 60.0, 1.0),)
    assert not buckets.take([demand()], 1, now + 0.9 * SECOND, False).met
    assert buckets.take([demand()], 1, now + 1.1 * SECOND, False).met


def test_a_bucket_holds_one_at_least() -> None:
    buckets, now = LocalBuckets(), 1e15
    slow = demand(per_minute=1, burst_s=1)
    assert buckets.take([slow], 1, now, False).met and not buckets.take([slow], 1, now, False).met
    assert buckets.take([slow], 1, now + 60 * SECOND, False).met


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_the_shares_of_all_ingresses_are_the_bucket(parts: int) -> None:
    rng = random.Random(parts)
    shares = [LocalBuckets() for _ in range(parts)]
    per_minute, burst_s, seconds = 6000, 4.0, 30.0
    granted, now = 0, 1e15
    end = now + seconds * SECOND
    while now < end:
        now += rng.expovariate(1) * 1000
        share = rng.choice(shares)
        granted += share.take([demand(1, per_minute, burst_s)], parts, now, False).met
    allowed = per_minute / 60 * (burst_s + seconds)
    assert 0.98 * allowed <= granted <= 1.01 * allowed


def test_what_shares_miss_is_taken_from_the_whole() -> None:
    now, parts = 1e15, 2
    shares = [LocalBuckets() for _ in range(parts)]
    for share in shares:
        share.learn(demand(), now + 10 * SECOND)  # 10 of 60 are missing
        for _ in range(5):
            assert share.take([demand()], parts, now, False).met
    missing = max(0.0, 10.0) + sum(share.excess(demand(), now) for share in shares) / SECOND
    assert missing == pytest.approx(20)
    later = now + 4 * SECOND
    assert 6 + sum(share.excess(demand(), later) for share in shares) / SECOND == pytest.approx(16)


def test_all_demands_or_none() -> None:
    buckets, now = LocalBuckets(), 1e15
    tokens = Demand("k", "tokens", 60, 60, 61)
    assert not buckets.take([demand(), tokens], 1, now, False).met
    assert buckets.take([demand()], 1, now, False).levels[0].remaining == 59


def test_what_is_full_again_is_forgotten() -> None:
    buckets, now = LocalBuckets(), 1e15
    buckets.take([demand()], 1, now, False)
    buckets.forget_full(now + 2 * SECOND)
    assert len(buckets._books) == 1
    buckets.forget_full(now + 4 * SECOND)
    assert len(buckets._books) == 0


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (0.0004, "1ms"), (0.02, "20ms"), (0.9996, "1s"), (1.5, "1.5s"), (60, "1m0s"), (360, "6m0s"),
     (3725, "1h2m5s")],
)  # fmt: skip
def test_durations_look_like_openais(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
