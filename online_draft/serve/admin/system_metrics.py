"""What the system as a whole counts, for Prometheus: read from journal and Redis when asked. Counts only."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from online_draft.errors import JournalError, StoreError
from online_draft.monitor.counts import read_counts
from online_draft.monitor.load import read_loads
from online_draft.registry.journal import KINDS
from online_draft.serve.admin.buffer_desk import BufferDesk
from online_draft.serve.admin.desk import AdminDesk, alarms_of

FRESH_S = 5.0
"""What was read is shown for this long, however many ask."""

_FATES = ("produced", "stored", "dropped", "erased", "opted_out")


class SystemMetrics(Collector):
    """Every ingress shows the same, whoever is asked: take the maximum, never the sum. Thread-safe.

    What can't be read is left out, and `online_draft_dependency_up` says why.
    """

    def __init__(self, desk: AdminDesk, clock: Callable[[], float] = time.monotonic) -> None:
        self._desk = desk
        self._buffer = BufferDesk(desk)
        self._others = [SystemMetrics(other, clock) for other in desk.others]
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._text = b""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """All of it in Prometheus' text format. Blocks on journal and Redis; call from a thread."""
        with self._lock:
            if self._clock() - self._read_at > FRESH_S:
                self._text = generate_latest(self._registry)
                self._read_at = self._clock()
            return self._text

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are fixed, and registering must not read anything."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The metrics as of now, those of the desk's other models among them."""
        families: dict[str, Metric] = {}
        for metrics in (self, *self._others):
            model = {"model": metrics._desk.model} if metrics._desk.model else {}
            for metric in metrics._own():
                samples = [sample._replace(labels={**sample.labels, **model}) for sample in metric.samples]
                if metric.name in families:
                    families[metric.name].samples += samples
                else:
                    metric.samples = samples
                    families[metric.name] = metric
        yield from families.values()

    def _own(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "online_draft_dependency_up", "1: it answers; of redis and store", labels=("dependency",)
        )
        for name, read in (("store", self._from_journal), ("redis", self._from_redis)):
            try:
                found = list(read())
            except (StoreError, JournalError):
                found = []
            up.add_metric((name,), float(bool(found)))
            yield from found
        yield up

    def _from_journal(self) -> Iterator[Metric]:
        kinds = Counter(decision.kind for decision in self._desk.journal.read())
        decisions = CounterMetricFamily(
            "online_draft_decisions", "decisions in the journal, by kind", labels=("kind",)
        )
        for kind in KINDS:
            decisions.add_metric((kind,), kinds[kind])
        yield decisions

    def _from_redis(self) -> Iterator[Metric]:
        client, keys = self._desk.redis_client()
        alarms = GaugeMetricFamily(
            "online_draft_alarms", "alarms that are raised, by code; none where it isn't", labels=("code",)
        )
        raised = Counter(str(alarm["code"]) for alarm in alarms_of(self._desk.actor_status("control")))
        for code, number in sorted(raised.items()):
            alarms.add_metric((code,), number)
        yield alarms
        loads = read_loads(client, keys, time.time_ns() // 1_000_000)
        yield GaugeMetricFamily("online_draft_replicas", "replicas that say their load", len(loads))
        cells = [cell for versions in read_counts(client, keys).values() for cell in versions.values()]
        steps = sum(cell.speculation.steps for cell in cells)
        yield CounterMetricFamily("online_draft_steps", "steps of sequences", steps)
        committed = sum(cell.speculation.committed for cell in cells)
        yield CounterMetricFamily("online_draft_committed_tokens", "tokens that steps committed", committed)
        yield from self._books()

    def _books(self) -> Iterator[Metric]:
        stats: dict[str, Any] = self._buffer.stats()
        writers, reader = stats["writers"], stats["reader"]
        records = CounterMetricFamily(
            "online_draft_records", "records of requests, by what became of them", labels=("fate",)
        )
        for fate in _FATES:
            records.add_metric((fate,), writers[fate])
        yield records
        yield GaugeMetricFamily(
            "online_draft_records_spooled", "records that wait in replicas", writers["spooled"]
        )
        yield GaugeMetricFamily(
            "online_draft_books_balanced", "1: every record is accounted for", float(writers["balanced"])
        )
        yield GaugeMetricFamily("online_draft_stream_records", "records in Redis", stats["stream"]["entries"])
        if stats["stream"]["lag"] is not None:
            yield GaugeMetricFamily(
                "online_draft_stream_lag", "records that the learner has yet to read", stats["stream"]["lag"]
            )
        if reader is not None:
            yield CounterMetricFamily(
                "online_draft_records_lost", "records that were stored or spooled and never came",
                reader["lost_in_crash"],
            )  # fmt: skip
