"""How much CPU time the learner still takes after a request was admitted."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

from online_draft.learner.config import LearnerConfig
from online_draft.serve.load import LoadPublisher
from online_draft.store import connect_redis

ROUNDS = 5
MOST_CPU_S = 0.25
"""A slice takes 0.2 at most, and ends early. A machine that runs tests may be busy: the time that passes says
little."""


def test_a_request_gets_the_cpu_back(service: Any, learner_config: LearnerConfig) -> None:
    service.serve(150)
    pace = replace(learner_config.pace, slice_ms=200, max_batch=256, passes=10**6)
    gate = replace(learner_config.gate, every_slices=10**6)
    loop = service.learner(replace(learner_config, pace=pace, gate=gate))
    worked = 0.0
    tick = loop.tick

    def timed() -> float:
        nonlocal worked
        pause = tick()
        worked = time.thread_time()
        return float(pause)

    loop.tick = timed
    running = [0]
    replica = LoadPublisher(
        connect_redis(service.redis.url), service.keys, "replica-1", lambda: (running[0], 0), dict
    )
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stop,))
    replica.start()
    thread.start()
    taken = []
    try:
        for _ in range(ROUNDS):
            wait_for(loop, "training")
            slices = loop.status()["slices"]
            while loop.status()["slices"] == slices:
                time.sleep(0.001)
            before = worked
            running[0] = 1
            replica.wake()
            wait_for(loop, "yielding")
            taken.append(worked - before)
            running[0] = 0
            replica.wake()
    finally:
        stop.set()
        thread.join()
        replica.close()
    assert max(taken) < MOST_CPU_S, taken


def wait_for(loop: Any, state: str) -> None:
    deadline = time.monotonic() + 60
    while loop.status()["state"] != state:
        assert time.monotonic() < deadline, loop.status()
        time.sleep(0.001)
