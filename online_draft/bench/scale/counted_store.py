"""An artifact store that counts what is asked of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from online_draft.store import ArtifactStore


class Tally:
    """Calls, CPU time and bytes by kind of call, over all threads; how many were under way at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Count from now on."""
        with self._lock:
            self.calls: Counter[str] = Counter()
            self.seconds: Counter[str] = Counter()
            self.bytes = 0
            self.peak = self._under_way = 0

    @contextmanager
    def count(self, kind: str) -> Iterator[None]:
        """One call."""
        with self._lock:
            self.calls[kind] += 1
            self._under_way += 1
            self.peak = max(self.peak, self._under_way)
        begun = time.thread_time()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[kind] += time.thread_time() - begun  # type: ignore[assignment]
                self._under_way = max(0, self._under_way - 1)

    def add_bytes(self, count: int) -> None:
        """Bytes that were read."""
        with self._lock:
            self.bytes += count


class CountedStore(ArtifactStore):
    """The calls that replicas make."""

    def __init__(self, root: Path, tally: Tally) -> None:
        super().__init__(root)
        self._tally = tally

    def list(self, path: str) -> list[str]:
        """Counted as `list`."""
        with self._tally.count("list"):
            return super().list(path)

    def exists(self, path: str) -> bool:
        """Counted as `exists`."""
        with self._tally.count("exists"):
            return super().exists(path)

    def read_bytes(self, path: str) -> bytes:
        """Counted as `read`, with its bytes."""
        with self._tally.count("read"):
            data = super().read_bytes(path)
        self._tally.add_bytes(len(data))
        return data
