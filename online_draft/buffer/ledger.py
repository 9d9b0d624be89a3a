"""What a reader knows of the records that it met: which are new, whose they are, which never came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from online_draft.buffer.books import Books
from online_draft.buffer.records import UnknownSchema, decode
from online_draft.buffer.sequences import SequenceTrack
from online_draft.core import Interaction
from online_draft.errors import StoreError
from online_draft.store.packing import pack, unpack

_MAX_WRITERS = 256
_STATE_SCHEMA = 2
_STALE_MS = 15_000

Fields = dict[bytes, bytes]
Entry = tuple[bytes, Fields | None]


@dataclass(slots=True)
class ReadCounts:
    """Integers since the first reader whose state was restored. `delivered` went to the caller; `erased`
    were a tenant's, which was erased before they were read; `trimmed` (an estimate) were cut off by the
    stream's length before they were read; `gaps` never arrived for another reason: a crash of the writer or
    of Redis."""

    delivered: int = 0
    duplicates: int = 0
    other_target: int = 0
    other_schema: int = 0
    unreadable: int = 0
    erased: int = 0
    trimmed: int = 0
    gaps: int = 0


class ReadLedger:
    """Not thread-safe, no I/O. `knows_all`: nothing was read before that isn't in here."""

    def __init__(self, target: str, state: bytes | None = None) -> None:
        """`state` as `to_bytes` gave it. StoreError when it is damaged."""
        self.counts = ReadCounts()
        self.knows_all = False
        self.erased: Mapping[str, int] = {}
        """Erased tenants, and until when (ms) what they had finished is not to be kept."""
        self.missing = 0
        """Numbers that didn't come, over all writers."""
        self._target = target
        self._tracks: dict[str, SequenceTrack] = {}
        self._cut: set[bytes] = set()
        self._accepted: dict[str, tuple[int, int]] = {}
        """What writers had accepted and had not come yet, and when (ms) they said so."""
        if state is not None:
            self._restore(state)

    def open(self, entry: bytes, fields: Fields | None) -> Interaction | None:
        """The record in an entry; None when it is refused, which is counted."""
        if not fields:
            # Delivered before, and cut off since. Who knows all numbers sees it as a gap, or has used it.
            if not self.knows_all:
                self.counts.trimmed += 1
                self._cut.add(entry)
            return None
        try:
            writer, sequence = fields[b"w"].decode(), int(fields[b"s"])
            first_time = self._see(writer, sequence)
            if b"e" in fields:
                self._pass_stone(fields[b"e"], first_time)
                return None
            if not first_time:
                self.counts.duplicates += 1
                return None
            interaction = decode(fields[b"d"])
        except UnknownSchema:
            self.counts.other_schema += 1
            return None
        except (KeyError, ValueError, StoreError):
            self.counts.unreadable += 1
            return None
        if interaction.target != self._target:
            self.counts.other_target += 1
            return None
        return interaction

    def _pass_stone(self, entry: bytes, first_time: bool) -> None:
        """An erased record's number: it is no loss, and was not cut off."""
        self.counts.erased += first_time
        if entry in self._cut:
            self._cut.discard(entry)
            self.counts.trimmed -= 1

    def is_erased(self, interaction: Interaction) -> bool:
        """Whether a record is one of an erased tenant's, and counts it if so."""
        erased = interaction.finished_at_ms <= self.erased.get(interaction.tenant, -1)
        self.counts.erased += erased
        return erased

    def knows(self, writer: str) -> bool:
        """Whether what we saw of a writer is all that was read of it."""
        return writer in self._tracks or self.knows_all

    def last_seen(self, writer: str) -> int:
        """A writer's highest number so far, 0 without any."""
        track = self._tracks.get(writer)
        return track.last if track is not None and track.last >= track.first else 0

    def note(self, books: Mapping[str, Books]) -> None:
        """Remember what writers say that they accepted and that hasn't come yet: Redis may forget it."""
        said = {name: (one.accepted, one.at_ms) for name, one in books.items() if self.knows(name)}
        for name, known in self._accepted.items():
            if name not in said or said[name][1] < known[1]:
                said[name] = known
        ahead = [(name, known) for name, known in said.items() if known[0] > self.last_seen(name)]
        self._accepted = dict(sorted(ahead, key=lambda item: item[1][1])[-_MAX_WRITERS:])

    def owed(self, books: Mapping[str, Books], now_ms: int) -> int:
        """Records that never came of writers that are silent, by the last that is known of their books. Who
        ended in order owes nothing, unless Redis forgot that."""
        owed = 0
        for name in {*books, *self._accepted}:
            accepted, at_ms = self._accepted.get(name, (0, 0))
            last = books.get(name)
            if last is not None and last.at_ms >= at_ms:
                accepted, at_ms = (0 if last.closed else last.accepted), last.at_ms
            if now_ms - at_ms > _STALE_MS and self.knows(name):
                owed += max(0, accepted - self.last_seen(name))
        return owed

    def to_bytes(self) -> bytes:
        """Counts, sequence tracks and what was noted of books, for the learner's checkpoint."""
        tracks = {name: [t.first, t.last, t.gaps, t.closed] for name, t in self._tracks.items()}
        counts = asdict(self.counts)
        return pack([_STATE_SCHEMA, self._target, counts, tracks, self.knows_all, self._accepted])

    def _see(self, writer: str, sequence: int) -> bool:
        track = self._tracks.pop(writer, None)
        if track is None:
            # Who has read everything knows that a writer begins with 1; otherwise an earlier reader
            # may have consumed what came before.
            track = SequenceTrack(0, 0) if self.knows_all else SequenceTrack(1, 0)
            while len(self._tracks) >= _MAX_WRITERS:
                self._tracks.pop(next(iter(self._tracks)))
        self._tracks[writer] = track
        before = track.missing
        first_time = track.see(sequence)
        self.missing += track.missing - before
        return first_time

    def _restore(self, state: bytes) -> None:
        try:
            schema, target, counts, tracks, *rest = cast(Any, unpack(state, "reader state"))
            if schema not in (_STATE_SCHEMA - 1, _STATE_SCHEMA):
                raise StoreError(f"reader state has schema {schema}, expected {_STATE_SCHEMA}")
            self.knows_all = bool(rest[0]) if schema == _STATE_SCHEMA else True
            accepted = rest[1] if len(rest) > 1 else {}
            self._accepted = {str(name): (int(count), int(at)) for name, (count, at) in accepted.items()}
            restored = ReadCounts(**{name: int(count) for name, count in counts.items()})
            self._tracks = {
                str(name): SequenceTrack(first, last, [(low, high) for low, high in gaps], closed)
                for name, (first, last, gaps, closed) in tracks.items()
            }
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            raise StoreError(f"reader state is not readable: {error}") from error
        self.counts = restored if target == self._target else ReadCounts()
