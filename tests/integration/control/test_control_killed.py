"""Control as a process of its own that is killed, without warning, in every state of the ladder."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

CONTROL = """
import json, sys, threading
from online_draft.control.config import ControlConfig, ControlPlace
from online_draft.control.loop import ControlLoop

place, config = json.loads(sys.argv[1])
ControlLoop(ControlPlace(**place), ControlConfig.from_dict(config)).run(threading.Event())
"""


def start(house: Any) -> subprocess.Popen[bytes]:
    given = json.dumps([asdict(house.place), asdict(house.config)])
    return subprocess.Popen([sys.executable, "-c", CONTROL, given])


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_killed_in_every_state_it_leaves_one_champion_and_goes_on(
    house: Any, until: Callable[[Callable[[], object]], None]
) -> None:
    house.config = replace(house.config, poll_interval_s=0.05, canary_max_s=600, watch_s=3, watch_min_s=1)
    steps: list[tuple[Callable[[], object], str]] = [
        (house.propose, "canary"),
        (lambda: house.serve(2.0, 2.4), "promote"),
        (lambda: house.serve(2.4, 2.0), "settle"),
        (lambda: house.propose(b"other"), "canary"),
        (lambda: house.serve(3.0, 1.5), "refuse"),
        (lambda: house.propose(b"third"), "canary"),
        (lambda: house.serve(2.0, 2.4), "promote"),
        (lambda: house.serve(1.4, 2.8), "roll_back"),
    ]
    process = start(house)
    try:
        for step, kind in steps:
            kill(process)
            step()
            process = start(house)
            until(lambda kind=kind: house.last.kind == kind)  # type: ignore[misc]
            assert house.state.champion is not None and house.state.champion != house.state.previous
    finally:
        kill(process)
    assert house.kinds == [
        "propose", "canary", "promote", "settle",
        "propose", "canary", "refuse",
        "propose", "canary", "promote", "roll_back",
    ]  # fmt: skip
