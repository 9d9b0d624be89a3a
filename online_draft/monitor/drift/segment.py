"""Drift of one segment: a fold over its samples, in their order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from online_draft.monitor.drift.adwin import Adwin, ChangeDetector
from online_draft.monitor.drift.config import JUDGED, DriftConfig
from online_draft.monitor.drift.samples import DriftSample
from online_draft.monitor.drift.state import DriftState
from online_draft.monitor.drift.verdict import Verdict, as_figures, judge


class SegmentDrift:
    """Holds nothing but what its samples say: fed with the same ones again it is the same again."""

    def __init__(
        self, segment: str, config: DriftConfig, detector: Callable[[], ChangeDetector] | None = None
    ) -> None:
        self._segment = segment
        self._config = config
        self._detector: ChangeDetector = (
            Adwin(config.delta, config.min_side, config.window) if detector is None else detector()
        )
        self._window: list[DriftSample] = []
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._at_ms: int | None = None
        self._alarm_ms: int | None = None
        self._before: list[DriftSample] = []
        self._after: list[DriftSample] = []
        self._verdict = Verdict("unknown")

    def update(self, at_ms: int, sample: DriftSample) -> None:
        """Take in the next sample. One that says nothing, or was here before, is ignored."""
        rate = sample.champion.rate
        key = (sample.record, sample.version)
        if rate is None or key in self._known:
            return
        self._known[key] = None
        if len(self._known) > 2 * self._config.window:
            self._known.popitem(last=False)
        self._at_ms = at_ms
        self._window = [*self._window[-self._config.window + 1 :], sample]
        self._detector.update(rate)
        changed = self._detector.changed
        if self._alarm_ms is not None:
            self._after = self._window[-changed:] if changed else [*self._after[-JUDGED + 1 :], sample]
            self._judge_again(at_ms)
        elif changed:
            self._judge_first(at_ms, self._window[:-changed], self._window[-changed:])
        if changed:
            self._window = self._window[-changed:]

    def state(self, now_ms: int) -> DriftState:
        """As of now: without recent samples nothing is known."""
        if self._at_ms is None or now_ms - self._at_ms > self._config.fresh_s * 1000:
            return DriftState(self._segment, False, "unknown", self._at_ms, None, {})
        if self._alarm_ms is None:
            return DriftState(self._segment, False, "none", self._at_ms, None, {})
        kind = self._verdict.kind if self._settled else "unknown"
        return DriftState(self._segment, True, kind, self._at_ms, self._alarm_ms, as_figures(self._verdict))

    @property
    def _settled(self) -> bool:
        return len(self._after) >= self._config.settle

    def _judge_first(self, at_ms: int, before: list[DriftSample], after: list[DriftSample]) -> None:
        """Something changed: raise an alarm if acceptance fell."""
        verdict = judge(before[-JUDGED:], after, self._config)
        if verdict.kind != "none":
            self._alarm_ms, self._verdict = at_ms, verdict
            self._before, self._after = before[-JUDGED:], after

    def _judge_again(self, at_ms: int) -> None:
        """More is known of the time since: end the alarm if acceptance is back or the fall is old news."""
        assert self._alarm_ms is not None
        self._verdict = judge(self._before, self._after, self._config)
        back = self._settled and self._verdict.kind == "none"
        if back or at_ms - self._alarm_ms > self._config.hold_s * 1000:
            self._alarm_ms = None
            self._before, self._after = [], []
