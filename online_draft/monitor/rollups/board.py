"""One process's traffic counts by time: seconds first, and from them every coarser bucket.

Each process says its own absolute counts of a bucket under its own name and readers add them up. Saying
them twice changes nothing, and counts that arrive late change the bucket of their time.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping

from online_draft.core import SpeculationCounts
from online_draft.monitor.counts import OTHER_SEGMENTS, PLAIN
from online_draft.monitor.drift.samples import DriftSample
from online_draft.monitor.rollups.drift_counts import DriftCounts
from online_draft.monitor.rollups.histogram import count_at
from online_draft.monitor.rollups.resolutions import RESOLUTIONS, Resolution
from online_draft.monitor.rollups.traffic_counts import LIVE, Cell, TrafficCounts
from online_draft.monitor.rollups.traffic_rows import Row, empty_row, pack_rows, to_row, unpack_rows

OTHER_VERSIONS = "(other)"

BucketName = tuple[int, int]
"""A resolution's seconds, and the bucket's start."""

_SEGMENTS = 32
_OWN_CELLS = 48
_CELLS = 96
_FORGET_SEGMENT_S = 3600.0


class RollupBoard:
    """Counting is thread-safe and does no I/O; `fold` and what stands below it belong to one thread.

    Bounded: of clients' segments the 32 in use within the hour have names, others count under "(other)".
    From its 48th cell on a bucket counts further versions under "(other)" of their segment, and has 98 at
    most. Packed buckets are kept as long as they can be read, so that a Redis that forgot is told again.
    """

    def __init__(self, replica: str, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives Unix seconds."""
        self.replica = replica
        self.instance = uuid.uuid4().hex[:8]
        self._clock = clock
        self._lock = threading.Lock()
        self._fresh: dict[tuple[int, str, str], TrafficCounts] = {}
        self._segments: OrderedDict[str, float] = OrderedDict()
        self._packed: dict[BucketName, bytes] = {}
        self._open: dict[BucketName, dict[Cell, Row]] = {}
        self._unsaid: set[BucketName] = set()

    def tokens(self, segment: str, count: int, first: bool, latency_bucket: int) -> None:
        """Tokens of one output, and when it came after the receipt (`first`) or the output before it."""
        with self._lock:
            counts = self._count(segment, LIVE)
            counts.tokens += count
            count_at(counts.first_token if first else counts.inter_token, latency_bucket)

    def error(self, segment: str, kind: str) -> None:
        """A request that didn't finish; `kind` is one of `traffic_counts.ERROR_KINDS`."""
        with self._lock:
            errors = self._count(segment, LIVE).errors
            errors[kind] = errors.get(kind, 0) + 1

    def finished(
        self, segment: str, version: str | None, speculation: SpeculationCounts, prompt_tokens: int
    ) -> None:
        """A request that finished, and what was speculated under the version that it finished with."""
        counts = TrafficCounts(1, prompt_tokens, speculation=speculation)
        self.add(self._clock(), segment, version or PLAIN, counts)

    def speculated(self, segment: str, version: str | None, speculation: SpeculationCounts) -> None:
        """What a request that finished had before under another version."""
        counts = TrafficCounts(speculation=speculation)
        self.add(self._clock(), segment, version or PLAIN, counts)

    def replayed(self, segment: str, sample: DriftSample) -> None:
        """A record that was replayed to measure drift acceptance."""
        counts = TrafficCounts(drift=DriftCounts.of(sample))
        self.add(self._clock(), segment, sample.version, counts)

    def add(self, at_s: float, segment: str, version: str, counts: TrafficCounts) -> None:
        """Count something that happened at a given time, however late."""
        with self._lock:
            self._count(segment, version, at_s).add(counts)

    def fold(self) -> None:
        """Take what is new into its buckets of all resolutions; forget buckets that expired."""
        with self._lock:
            fresh, self._fresh = self._fresh, {}
        now = self._clock()
        self._open.clear()
        for (second, segment, version), counts in fresh.items():
            row = to_row(counts)
            for resolution in RESOLUTIONS:
                start = resolution.start(second)
                if resolution.expires(start) > now:
                    cells = self._cells(resolution, start)
                    cell = _room(cells, segment, version)
                    cells[cell] = cells.get(cell, empty_row()) + row
        for name, cells in self._open.items():
            self._packed[name] = pack_rows(cells)
            self._unsaid.add(name)
        for name in [name for name in self._packed if expires(name) <= now]:
            del self._packed[name]
            self._unsaid.discard(name)

    def unsaid(self) -> Mapping[BucketName, bytes]:
        """Packed counts that Redis may not know, newest buckets first."""
        return {name: self._packed[name] for name in sorted(self._unsaid, key=lambda name: -expires(name))}

    def said(self, names: Mapping[BucketName, bytes]) -> None:
        """Redis knows these now."""
        self._unsaid.difference_update(names)

    def forgotten(self) -> None:
        """Redis knows nothing any more."""
        self._unsaid.update(self._packed)

    def _count(self, segment: str, version: str, at_s: float | None = None) -> TrafficCounts:
        """The fresh counts of a second. The lock is held."""
        now = self._clock()
        name = (int(now if at_s is None else at_s), self._named(segment, now), version)
        counts = self._fresh.get(name)
        if counts is None:
            counts = self._fresh[name] = TrafficCounts()
        return counts

    def _named(self, segment: str, now: float) -> str:
        if segment not in self._segments and len(self._segments) >= _SEGMENTS:
            oldest, used = next(iter(self._segments.items()))
            if now - used < _FORGET_SEGMENT_S:
                return OTHER_SEGMENTS
            del self._segments[oldest]
        self._segments[segment] = now
        self._segments.move_to_end(segment)
        return segment

    def _cells(self, resolution: Resolution, start: int) -> dict[Cell, Row]:
        name = (resolution.seconds, start)
        cells = self._open.get(name)
        if cells is None:
            packed = self._packed.get(name)
            cells = self._open[name] = {} if packed is None else dict(unpack_rows(packed))
        return cells


_RESOLUTIONS = {resolution.seconds: resolution for resolution in RESOLUTIONS}


def expires(name: BucketName) -> int:
    """When a bucket is forgotten, in Unix seconds."""
    seconds, start = name
    return _RESOLUTIONS[seconds].expires(start)


def _room(cells: Mapping[Cell, Row], segment: str, version: str) -> Cell:
    """The cell, or a coarser one when the bucket has too many."""
    if (segment, version) in cells or len(cells) < _OWN_CELLS:
        return segment, version
    coarser = LIVE if version == LIVE else OTHER_VERSIONS
    if (segment, coarser) in cells or len(cells) < _CELLS:
        return segment, coarser
    return OTHER_SEGMENTS, coarser
