"""What the learner remembers of the traffic, by segment: recent, long-term and held-out records.

Records are kept encoded (about 2 bytes a token), so that many fit and a checkpoint is a copy.
"""

from __future__ import annotations

import hashlib
import random
from collections import OrderedDict, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from online_draft.buffer.records import decode, encode
from online_draft.buffer.split import is_held_out
from online_draft.core import Interaction
from online_draft.errors import ConfigError, StoreError
from online_draft.store.packing import pack, unpack

Place = Literal["training", "held_out", "duplicate"]

_STATE_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class ReservoirConfig:
    """Records kept per segment, the share of a sample that comes from recent traffic, and the share of
    all records that is held out. Beyond `segments` the segment that rested longest is forgotten."""

    recent: int = 512
    long_term: int = 1024
    held_out: int = 256
    recent_share: float = 0.7
    held_out_fraction: float = 0.1
    segments: int = 64
    remembered: int = 16_384
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("recent", "long_term", "held_out", "segments", "remembered"):
            if getattr(self, name) < 1:
                raise ConfigError(f"reservoirs.{name}", f"{getattr(self, name)} is not an integer >= 1")
        for name in ("recent_share", "held_out_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"reservoirs.{name}", f"{getattr(self, name)} is not in [0, 1]")


@dataclass(slots=True)
class _Segment:
    recent: deque[bytes]
    held_out: deque[bytes]
    long_term: list[bytes] = field(default_factory=list)
    seen: int = 0


class Reservoirs:
    """Not thread-safe, no I/O. The state depends only on config and on what was added, in order."""

    def __init__(self, config: ReservoirConfig | None = None, assistant_ids: Collection[int] = ()) -> None:
        self.config = config or ReservoirConfig()
        self._assistant_ids = frozenset(assistant_ids)
        self._segments: OrderedDict[str, _Segment] = OrderedDict()
        self._arrivals: deque[str] = deque(maxlen=self.config.recent)
        self._digests: OrderedDict[bytes, None] = OrderedDict()
        self.duplicates = 0

    def add(self, interaction: Interaction) -> Place:
        """Take in one record; says where it went. A repetition of prompt and output is not kept."""
        record = encode(interaction)
        if self._is_duplicate(interaction):
            self.duplicates += 1
            return "duplicate"
        segment = self._segment(interaction.segment)
        if is_held_out(interaction, self.config.held_out_fraction, self._assistant_ids):
            segment.held_out.append(record)
            return "held_out"
        segment.recent.append(record)
        self._arrivals.append(interaction.segment)
        segment.seen += 1
        if len(segment.long_term) < self.config.long_term:
            segment.long_term.append(record)
        else:
            # Reservoir sampling (algorithm R); the draw depends on the count alone, so that a restored
            # learner goes on as the one that stopped.
            draw = random.Random(f"{self.config.seed}:{interaction.segment}:{segment.seen}")
            slot = draw.randrange(segment.seen)
            if slot < self.config.long_term:
                segment.long_term[slot] = record
        return "training"

    def sample(self, count: int, rng: random.Random) -> list[Interaction]:
        """`count` training records, with replacement; empty when there are none.

        The recent share follows the traffic of the last `recent` arrivals; the rest is spread evenly over
        all segments, so that resting ones are not forgotten.
        """
        rested = [name for name, segment in self._segments.items() if segment.long_term]
        if not rested:
            return []
        arrivals = [name for name in self._arrivals if name in self._segments]
        drawn: list[bytes] = []
        for _ in range(count):
            if arrivals and rng.random() < self.config.recent_share:
                drawn.append(rng.choice(self._segments[rng.choice(arrivals)].recent))
            else:
                drawn.append(rng.choice(self._segments[rng.choice(rested)].long_term))
        return [decode(record) for record in drawn]

    def held_out(self, segment: str | None = None, since_ms: int = 0) -> list[Interaction]:
        """Held-out records that finished at or after `since_ms`, of one segment or all; oldest first."""
        names = [segment] if segment is not None else list(self._segments)
        records = [
            decode(record)
            for name in names
            if name in self._segments
            for record in self._segments[name].held_out
        ]
        return sorted(
            (record for record in records if record.finished_at_ms >= since_ms),
            key=lambda record: record.finished_at_ms,
        )

    def sizes(self) -> dict[str, dict[str, int]]:
        """Records kept by segment: recent, long_term, held_out; and training records seen so far."""
        return {
            name: {
                "recent": len(segment.recent),
                "long_term": len(segment.long_term),
                "held_out": len(segment.held_out),
                "seen": segment.seen,
            }
            for name, segment in self._segments.items()
        }

    def to_bytes(self) -> bytes:
        """Everything remembered, for the learner's checkpoint."""
        segments = [
            [name, list(one.recent), one.long_term, list(one.held_out), one.seen]
            for name, one in self._segments.items()
        ]
        return pack([_STATE_SCHEMA, segments, list(self._arrivals), list(self._digests), self.duplicates])

    @classmethod
    def from_bytes(
        cls, data: bytes, config: ReservoirConfig | None = None, assistant_ids: Collection[int] = ()
    ) -> Reservoirs:
        """Inverse of `to_bytes`, cut down to `config`. StoreError when it is damaged."""
        reservoirs = cls(config, assistant_ids)
        limits = reservoirs.config
        try:
            schema, segments, arrivals, digests, duplicates = cast(Any, unpack(data, "reservoirs"))
            if schema != _STATE_SCHEMA:
                raise StoreError(f"reservoirs have schema {schema}, expected {_STATE_SCHEMA}")
            for name, recent, long_term, held_out, seen in segments[-limits.segments :]:
                for record in (*recent, *long_term, *held_out):
                    decode(record)
                reservoirs._segments[str(name)] = _Segment(
                    deque(recent, limits.recent),
                    deque(held_out, limits.held_out),
                    long_term[-limits.long_term :],
                    int(seen),
                )
            reservoirs._arrivals.extend(arrivals)
            reservoirs._digests.update((bytes(digest), None) for digest in digests[-limits.remembered :])
            reservoirs.duplicates = int(duplicates)
        except (ValueError, TypeError) as error:
            raise StoreError(f"reservoirs are not readable: {error}") from error
        return reservoirs

    def _segment(self, name: str) -> _Segment:
        segment = self._segments.pop(name, None)
        if segment is None:
            while len(self._segments) >= self.config.segments:
                self._segments.popitem(last=False)
            segment = _Segment(deque(maxlen=self.config.recent), deque(maxlen=self.config.held_out))
        self._segments[name] = segment
        return segment

    def _is_duplicate(self, interaction: Interaction) -> bool:
        content = pack([interaction.tenant, interaction.prompt_ids, interaction.output_ids])
        digest = hashlib.blake2b(content, digest_size=12).digest()
        if digest in self._digests:
            return True
        self._digests[digest] = None
        if len(self._digests) > self.config.remembered:
            self._digests.popitem(last=False)
        return False
