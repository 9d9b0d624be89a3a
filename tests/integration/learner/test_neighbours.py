"""A learner hears when other models on its machine become busy."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from online_draft.learner.idle.bell import BusyBell
from online_draft.monitor.load import Load, publish_load
from online_draft.redis_server import PrivateRedis
from online_draft.store import RedisKeys, connect_redis

HERE = f"{socket.gethostname()}-1"


def test_own_replicas_are_heard_wherever_they_are_and_others_on_this_machine(
    redis_server: PrivateRedis, until: Callable[[Callable[[], object]], None]
) -> None:
    own, near, stranger = RedisKeys(), RedisKeys(realm="b"), RedisKeys(realm="unknown")
    bell = BusyBell(redis_server.url, own, [near])
    client = connect_redis(redis_server.url)

    def call(keys: RedisKeys, replica: str) -> None:
        publish_load(client, keys, replica, Load(1, 0, time.time_ns() // 1_000_000))

    bell.start()
    try:
        assert bell.listening.wait(20)
        for keys, replica in ((own, "elsewhere-1"), (own, HERE), (near, HERE)):
            call(keys, replica)
            until(bell.rung)
            assert bell.take()
        call(near, "elsewhere-1")
        call(stranger, HERE)
        time.sleep(0.2)
        assert not bell.rung()
    finally:
        bell.close()
        client.close()
