"""Processes below ours, by /proc: found even when their own parents have died."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans(adopt: bool = True) -> None:
    """Become the parent of descendants whose own parent dies, so that they can still be found. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when it doesn't run (zombies don't)."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[19])


def descendants(pid: int) -> list[int]:
    """Running processes below `pid`, children before grandchildren."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields is not None and fields[0] not in "ZX":
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    layer = [pid]
    while layer:
        layer = [child for parent in layer for child in parents.get(parent, [])]
        found += layer
    return found


def command(pid: int) -> str:
    """The command line of a process as it shows itself; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def end_all(pids: Collection[int], grace_s: float) -> None:
    """Wait for processes to end by themselves, then kill what is left, and reap those that are ours."""
    started = {pid: start_ticks(pid) for pid in pids}

    def alive() -> list[int]:
        return [pid for pid, ticks in started.items() if ticks is not None and start_ticks(pid) == ticks]

    _wait(alive, grace_s)
    for pid in alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _wait(alive, 5.0)
    reap(pids)


def reap(pids: Iterable[int]) -> None:
    """Forget dead children among `pids`."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _wait(alive: Callable[[], list[int]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and alive():
        time.sleep(0.05)


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on; None when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
