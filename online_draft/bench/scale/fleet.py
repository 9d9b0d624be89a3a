"""Many simulated replicas in one process, and the requests that end on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType

from online_draft.bench.scale.replica import SimulatedReplica

APART_S = 1.0
"""Replicas don't start at the same moment, and so don't speak at the same moment."""


class Fleet:
    """Context manager: starts the replicas over a second, ends them."""

    def __init__(self, replicas: Sequence[SimulatedReplica]) -> None:
        self.replicas = replicas

    def __enter__(self) -> Fleet:
        for replica in self.replicas:
            replica.start()
            time.sleep(APART_S / len(self.replicas))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ends = [threading.Thread(target=replica.stop) for replica in self.replicas]
        for end in ends:
            end.start()
        for end in ends:
            end.join()

    def rest(self, seconds: float) -> None:
        """No requests."""
        for replica in self.replicas:
            replica.busy = False
        time.sleep(seconds)

    def work(self, seconds: float, rate: float) -> int:
        """`rate` requests a second end on every replica, evenly; how many that were."""
        for replica in self.replicas:
            replica.busy = True
        begun, done = time.perf_counter(), 0
        total = int(seconds * rate * len(self.replicas))
        while done < total:
            due = begun + done / (rate * len(self.replicas)) - time.perf_counter()
            if due > 0:
                time.sleep(due)
            self.replicas[done % len(self.replicas)].finish_request()
            done += 1
        return done

    def wait_for(self, version: str, seconds: float) -> list[float]:
        """When each replica that installed a version in time did so (`time.perf_counter`)."""
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            if all(version in replica.installed for replica in self.replicas):
                break
            time.sleep(0.01)
        return [replica.installed[version] for replica in self.replicas if version in replica.installed]
