"""Which part of the service takes how much CPU time, by /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from online_draft.launch.processes import command, descendants

_PARTS = (
    ("ray::ServeReplica:online-draft:Replica", "replica"),
    ("ray::ServeReplica:online-draft:Ingress", "ingress"),
    ("ray::ProxyActor", "proxy"),
    ("redis-server", "redis"),
)
ENGINE, CHANNEL, OTHERS = "engine", "channel", "others"
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")

Times = dict[tuple[str, int, int], float]


def read_times(root: int) -> Times:
    """Seconds of CPU so far, by (part, process, thread), of all processes below `root`."""
    times: Times = {}
    for pid in descendants(root):
        shown = command(pid)
        part = next((name for prefix, name in _PARTS if prefix in shown), OTHERS)
        for task in _tasks(pid):
            seconds = _seconds(task)
            if seconds is not None:
                times[part, pid, int(task.name)] = seconds
    return times


def spent(before: Times, after: Times) -> dict[str, float]:
    """Seconds of CPU by part between two readings.

    Of a replica's threads the busiest is the engine's; the others carry messages (`channel`).
    """
    taken = {key: seconds - before.get(key, 0.0) for key, seconds in after.items()}
    parts = dict.fromkeys((ENGINE, CHANNEL, "ingress", "proxy", "redis", OTHERS), 0.0)
    for (part, _, _), seconds in taken.items():
        parts[CHANNEL if part == "replica" else part] += seconds
    for pid in {pid for part, pid, _ in taken if part == "replica"}:
        busiest = max(seconds for (_, owner, _), seconds in taken.items() if owner == pid)
        parts[ENGINE] += busiest
        parts[CHANNEL] -= busiest
    return parts


def _tasks(pid: int) -> Iterable[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return ()


def _seconds(task: Path) -> float | None:
    try:
        fields = (task / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) * _TICK_S
