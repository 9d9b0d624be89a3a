"""Which replicas a deployment has, as this process last heard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

Watcher = Callable[[frozenset[str]], None]


def deployment_key(app: str, deployment: str) -> str:
    """What `Members` knows a deployment by."""
    return f"{app}/{deployment}"


class Members:
    """Names of the running replicas of each deployment, and of those that this process still talks to.

    Written by Ray Serve's router (`routing.DirectedRouter`), read by whoever watches. Thread-safe; watchers
    are called on the writer's thread and must not block.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, frozenset[str]] = {}
        self._watchers: dict[str, list[Watcher]] = {}
        self._in_use: dict[str, frozenset[str]] = {}

    def set(self, deployment: str, names: Iterable[str]) -> None:
        """These replicas run."""
        with self._lock:
            running = self._running[deployment] = frozenset(names)
            watchers = list(self._watchers.get(deployment, ()))
        for watcher in watchers:
            watcher(running)

    def remove(self, deployment: str, name: str) -> None:
        """This replica died."""
        self.set(deployment, self.running(deployment) - {name})

    def running(self, deployment: str) -> frozenset[str]:
        """The replicas that take requests."""
        with self._lock:
            return self._running.get(deployment, frozenset())

    def watch(self, deployment: str, watcher: Watcher) -> Callable[[], None]:
        """Call `watcher` with the names at once and with every change, until what is returned is called."""
        with self._lock:
            watchers = self._watchers.setdefault(deployment, [])
            watchers.append(watcher)
            running = self._running.get(deployment, frozenset())
        watcher(running)

        def stop() -> None:
            with self._lock:
                if watcher in watchers:
                    watchers.remove(watcher)

        return stop

    def use(self, deployment: str, names: Iterable[str]) -> None:
        """These replicas are talked to, running or about to end."""
        with self._lock:
            self._in_use[deployment] = frozenset(names)

    def in_use(self, deployment: str) -> frozenset[str]:
        """What `use` said."""
        with self._lock:
            return self._in_use.get(deployment, frozenset())


MEMBERS = Members()
"""The process's own. Ray Serve builds routers by itself, so that they can't be handed one."""
