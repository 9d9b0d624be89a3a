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
from online_draft.monitor.drift.samples import DriftSample, Hits, publish_drift_samples, read_replayed
from online_draft.monitor.rollups.board import RollupBoard
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

    Samples go to Redis, for control to watch, and are counted on the board of roll-ups. Redis away: samples
    are lost, their counts aren't, and the next records are measured all the same.
    """

    def __init__(
        self,
        client: redis.Redis,
        keys: RedisKeys,
        fingerprint: str,
        target: Target,
        pacer: Pacer,
        fetch: Callable[[str], Drafter],
        board: RollupBoard,
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
        self._board = board
        self._replayed: set[tuple[str, str]] | None = None
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
            self._drop_replayed(version, count)
            batch = list(self._waiting)[:count]
            samples = self._measure(version, champion, floor, batch, interrupted) if batch else None
            if samples is None:
                self._pacer.void()
                return
        for _ in batch:
            self._waiting.popleft()
        self.measured += len(batch)
        self._publish([record.segment for record in batch], samples)
        self._due_at = self._clock() + _REST * (self._clock() - started)

    def _drop_replayed(self, version: str, count: int) -> None:
        """Have `count` records stand first that no learner has measured with this version. One that was
        killed may have, before it could acknowledge them."""
        if self._replayed is None:
            try:
                self._replayed = read_replayed(self._client, self._keys, self._fingerprint, _MOST_WAITING)
            except StoreError as error:
                logger.debug("it isn't known what was measured before: %s", error)
                return
        if not self._replayed:
            return
        first: list[Interaction] = []
        while self._waiting and len(first) < count:
            record = self._waiting.popleft()
            if (_name(record), version) not in self._replayed:
                first.append(record)
        self._waiting.extendleft(reversed(first))

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
        for segment, sample in zip(segments, samples, strict=True):
            self._board.replayed(segment, sample)


def _name(record: Interaction) -> str:
    """Says nothing of the text to who doesn't have it."""
    return hashlib.blake2b(encode(record), digest_size=12).hexdigest()
