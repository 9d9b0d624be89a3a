"""Measures drift acceptance on held-out records as they come, for control to watch."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable

import redis

from online_draft.buffer.records import encode
from online_draft.core import Interaction
from online_draft.errors import ArtifactError, StoreError
from online_draft.learner.idle.pacer import Pacer
from online_draft.models.drafter import Drafter
from online_draft.models.target import Target
from online_draft.monitor.drift.samples import DriftSample, Hits, publish_drift_samples
from online_draft.store import RedisKeys
from online_draft.training.drift import FirstChoices, first_choices, output_entropies
from online_draft.training.features import extract

logger = logging.getLogger(__name__)

_REST = 10
"""After a piece of work this many times its duration passes before the next one."""
_MOST_WAITING = 256
"""Beyond it the oldest go: they are too old to be of interest."""


class DriftMeter:
    """Replays each new held-out record once with the champion and the baseline. Not thread-safe.

    Redis away: what was measured is lost; the next records are measured all the same.
    """

    def __init__(
        self,
        client: redis.Redis,
        keys: RedisKeys,
        fingerprint: str,
        target: Target,
        pacer: Pacer,
        fetch: Callable[[str], Drafter],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.measured = 0
        """Records so far."""
        self._client = client
        self._keys = keys
        self._fingerprint = fingerprint
        self._target = target
        self._pacer = pacer
        self._fetch = fetch
        self._baseline: tuple[str | None, Drafter | None] = (None, None)
        self._clock = clock
        self._due_at = float("-inf")
        self._waiting: deque[Interaction] = deque(maxlen=_MOST_WAITING)

    def begin(self, fresh: Iterable[Interaction]) -> bool:
        """Whether a piece of work is due, now that these held-out records came, too."""
        self._waiting.extend(record for record in fresh if len(record.output_ids) > 1)
        return bool(self._waiting) and self._clock() >= self._due_at

    def drop(self) -> None:
        """Give up what waits, and the baseline's weights."""
        self._waiting.clear()
        self._baseline = (None, None)

    def advance(
        self,
        version: str,
        champion: Drafter,
        baseline: str | None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Measure and publish a few records, within a slice's time, unless `interrupted()` says so on the
        way. A baseline that is the champion needs no replay of its own."""
        floor = champion if baseline == version else self._fetched(baseline)
        started = self._clock()
        with self._pacer as count:
            batch = list(self._waiting)[:count]
            samples = self._measure(version, champion, floor, batch, interrupted)
            if samples is None:
                self._pacer.void()
                return
        for _ in batch:
            self._waiting.popleft()
        self.measured += len(batch)
        self._publish([record.segment for record in batch], samples)
        self._due_at = self._clock() + _REST * (self._clock() - started)

    def _measure(
        self,
        version: str,
        champion: Drafter,
        baseline: Drafter | None,
        batch: list[Interaction],
        interrupted: Callable[[], bool],
    ) -> list[DriftSample] | None:
        features = extract(self._target, batch, layers=champion.feature_layers)
        if interrupted():
            return None
        first = first_choices(champion, features)
        if interrupted():
            return None
        if baseline is champion:
            floor: list[FirstChoices] | None = first
        elif baseline is None or baseline.feature_layers != champion.feature_layers:
            floor = None
        else:
            floor = first_choices(baseline, features)
        entropies = output_entropies(self._target, features)
        return [
            DriftSample(
                _name(record),
                version,
                Hits(first[i].hits, first[i].tried),
                Hits() if floor is None else Hits(floor[i].hits, floor[i].tried),
                round(1e6 * entropies[i][0]),
                entropies[i][1],
            )
            for i, record in enumerate(batch)
        ]

    def _fetched(self, baseline: str | None) -> Drafter | None:
        """None without one, or when it can't be read, which is tried once."""
        if baseline != self._baseline[0]:
            self._baseline = (baseline, None)
            try:
                if baseline is not None:
                    self._baseline = (baseline, self._fetch(baseline))
            except (StoreError, ArtifactError) as error:
                logger.warning("the baseline can't be measured: %s", error)
        return self._baseline[1]

    def _publish(self, segments: list[str], samples: list[DriftSample]) -> None:
        try:
            for segment in dict.fromkeys(segments):
                own = [sample for name, sample in zip(segments, samples, strict=True) if name == segment]
                publish_drift_samples(self._client, self._keys, self._fingerprint, segment, own)
        except StoreError as error:
            logger.debug("drift samples are lost: %s", error)


def _name(record: Interaction) -> str:
    """Says nothing of the text to who doesn't have it."""
    return hashlib.blake2b(encode(record), digest_size=12).hexdigest()
