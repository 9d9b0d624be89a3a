"""Roll-ups in a real Redis that restarts, dies and is emptied."""

from __future__ import annotations

import time

import pytest
import redis

from online_draft.monitor.rollups.board import RollupBoard
from online_draft.monitor.rollups.publisher import RollupPublisher
from online_draft.monitor.rollups.reader import read_rollup
from online_draft.monitor.rollups.resolutions import RESOLUTIONS
from online_draft.monitor.rollups.traffic_counts import TrafficCounts
from online_draft.redis_server import PrivateRedis
from online_draft.store import RedisKeys, connect_redis

KEYS = RedisKeys("rollups")


def totals(client: redis.Redis, now: int) -> list[int]:
    """Requests at each resolution."""
    found = []
    for resolution in RESOLUTIONS:
        series = read_rollup(client, KEYS, now - 600, now + 60, resolution.seconds)
        found.append(sum(bucket.requests for bucket in series.get((), {}).values()))
    return found


def test_what_was_said_is_said_again_to_a_redis_that_forgot(redis_server: PrivateRedis) -> None:
    client, now = connect_redis(redis_server.url), int(time.time())
    board = RollupBoard("replica")
    publisher = RollupPublisher(connect_redis(redis_server.url), KEYS, board)
    for late in (0, 5, 300):
        board.add(now - late, "sql", "v1", TrafficCounts(requests=1))
    publisher.publish()
    assert totals(client, now) == [3] * len(RESOLUTIONS)
    assert all(0 < client.ttl(key) <= 31 * 86_400 for key in client.scan_iter("rollups:rollup:*"))

    redis_server.kill()
    board.add(now, "sql", "v1", TrafficCounts(requests=1))
    with pytest.raises(redis.RedisError):
        publisher.publish()
    redis_server.start()
    publisher.publish()
    assert totals(client, now) == [4] * len(RESOLUTIONS)

    client.flushall()
    publisher.publish()
    assert totals(client, now) == [4] * len(RESOLUTIONS)
    client.close()


def test_a_publisher_says_the_last_counts_when_it_is_closed(redis_server: PrivateRedis) -> None:
    client, now = connect_redis(redis_server.url), int(time.time())
    board = RollupBoard("replica")
    publisher = RollupPublisher(connect_redis(redis_server.url), KEYS, board, interval_s=60.0)
    publisher.start()
    board.add(now, "sql", "v1", TrafficCounts(requests=1))
    publisher.close()
    publisher.close()
    assert totals(client, now) == [1] * len(RESOLUTIONS)
    client.close()
