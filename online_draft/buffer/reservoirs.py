"""What the learner remembers of the traffic, by segment: what it trains on, and what it judges by.

Records are kept encoded (about 2 bytes a token), so that many fit and a checkpoint is a copy.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields
from typing import Any, Literal, cast

from online_draft.buffer.mixing import Cell, cap_tenants
from online_draft.buffer.records import decode, encode
from online_draft.buffer.repetitions import Repetitions, goes_in_circles
from online_draft.buffer.reservoir_config import ReservoirConfig
from online_draft.buffer.rooms import Founders, Hardest, Room, Sample
from online_draft.buffer.split import is_held_out
from online_draft.core import Interaction
from online_draft.errors import StoreError
from online_draft.store.packing import pack, unpack

Place = Literal["training", "held_out", "duplicate", "repetition"]
PLACES: tuple[Place, ...] = ("training", "held_out", "duplicate", "repetition")

_STATE_SCHEMA = 2
_MIN_TRIED = 8
_JUDGING = ("held_out", "guards")


class _Segment:
    """The rooms of one segment."""

    def __init__(self, name: str, config: ReservoirConfig) -> None:
        self.recent: Room[bytes] = Room(config.recent)
        self.long_term: Sample[bytes] = Sample(config.long_term, f"{config.seed}:{name}")
        self.hard: Hardest[bytes] = Hardest(config.hard, config.hard_window)
        self.anchors: Founders[bytes] = Founders(config.anchors)
        self.held_out: Room[bytes] = Room(config.held_out)
        self.guards: Founders[bytes] = Founders(config.anchors)
        self.seen = 0

    @property
    def rooms(self) -> dict[str, Room[bytes]]:
        """By name, as in `sizes` and in the checkpoint."""
        return {name: room for name, room in vars(self).items() if isinstance(room, Room)}

    def records(self) -> Iterator[bytes]:
        """All of them, some several times."""
        for room in self.rooms.values():
            yield from room

    @property
    def owner(self) -> str:
        """The tenant with most records here."""
        counts: dict[str, int] = {}
        for room in (self.long_term, self.held_out):
            for tenant, items in room.kept.items():
                counts[tenant] = counts.get(tenant, 0) + len(items)
        return max(counts, key=lambda tenant: counts[tenant], default="")


class Reservoirs:
    """Not thread-safe, no I/O. The state depends only on config and on what was added, in order."""

    def __init__(self, config: ReservoirConfig | None = None, opening: Sequence[int] = ()) -> None:
        """`opening` as in `split.first_turn`."""
        self.config = config or ReservoirConfig()
        self._opening = tuple(opening)
        self._segments: OrderedDict[str, _Segment] = OrderedDict()
        self._arrivals: Room[str] = Room(self.config.recent)
        self._repetitions = Repetitions(self.config.remembered, self.config.repeats)

    def add(self, interaction: Interaction) -> Place:
        """Take in one record; says where it went. Doubles and repetitions are not kept."""
        record = encode(interaction)
        novelty = self._repetitions.note(interaction)
        if novelty != "new":
            return novelty
        held_out = self._is_held_out(interaction)
        if not held_out and goes_in_circles(interaction.output_ids):
            return "repetition"
        tenant = interaction.tenant
        segment = self._segment(interaction.segment, tenant)
        if held_out:
            segment.held_out.add(tenant, record)
            segment.guards.add(tenant, record)
            return "held_out"
        segment.seen += 1
        segment.recent.add(tenant, record)
        segment.long_term.add(tenant, record)
        segment.anchors.add(tenant, record)
        score = acceptance(interaction)
        if score is not None:
            segment.hard.offer(tenant, record, score, segment.seen)
        self._arrivals.add(tenant, interaction.segment)
        return "training"

    def sample(self, count: int, rng: random.Random, segment: str | None = None) -> list[Interaction]:
        """`count` training records, of one segment or all, with replacement; empty when there are none.

        Shares of sources without records go to the others. The recent share follows the traffic of the last
        arrivals; the others are spread evenly over all segments, so that resting ones aren't forgotten.
        """
        config, cap = self.config, self.config.tenant_cap
        mix = {
            "recent": config.recent_share,
            "hard": config.hard_share,
            "anchors": config.anchor_share,
            "long_term": 1 - config.recent_share - config.hard_share - config.anchor_share,
        }
        cells = {source: cap_tenants(found, cap) for source in mix if (found := self._cells(source, segment))}
        if not any(mix[source] > 0 for source in cells):
            mix = dict.fromkeys(cells, 1.0)
        drawn: list[bytes] = []
        for source in rng.choices(list(cells), [max(0.0, mix[s]) for s in cells], k=count) if cells else ():
            ((name, tenant),) = rng.choices(list(cells[source]), list(cells[source].values()))
            drawn.append(rng.choice(self._segments[name].rooms[source].kept[tenant]))
        return [decode(record) for record in drawn]

    def held_out(
        self, segment: str | None = None, since_ms: int = 0, frozen: bool = False
    ) -> list[Interaction]:
        """Held-out records that finished at or after `since_ms`, of one segment or all; oldest first.

        `frozen`: those of each segment's beginning instead, against which forgetting shows."""
        names = [segment] if segment is not None else list(self._segments)
        records = [
            decode(record)
            for name in names
            if name in self._segments
            for record in (self._segments[name].guards if frozen else self._segments[name].held_out)
        ]
        return sorted(
            (record for record in records if record.finished_at_ms >= since_ms),
            key=lambda record: record.finished_at_ms,
        )

    def erase(self, tenant: str) -> int:
        """Forget a tenant, its digests included; how many different records it had here."""
        gone: set[bytes] = set()
        for name, segment in list(self._segments.items()):
            for room in segment.rooms.values():
                gone.update(room.erase(tenant))
            if not any(len(room) for room in segment.rooms.values()):
                del self._segments[name]
        self._arrivals.erase(tenant)
        self._repetitions.forget(tenant)
        return len(gone)

    def sizes(self) -> dict[str, dict[str, int]]:
        """Records kept by segment and room, tenants there, and training records seen so far."""
        return {
            name: {
                **{kind: len(room) for kind, room in segment.rooms.items()},
                "tenants": len({*segment.long_term.kept, *segment.held_out.kept}),
                "seen": segment.seen,
            }
            for name, segment in self._segments.items()
        }

    def to_bytes(self) -> bytes:
        """Everything remembered, for the learner's checkpoint. A record in several rooms is written once."""
        numbers: dict[bytes, int] = {}
        for segment in self._segments.values():
            for record in segment.records():
                numbers.setdefault(record, len(numbers))
        segments = [
            [name, one.seen, {kind: room.state(numbers.__getitem__) for kind, room in one.rooms.items()}]
            for name, one in self._segments.items()
        ]
        arrivals = self._arrivals.state(str)
        return pack([_STATE_SCHEMA, list(numbers), segments, arrivals, self._repetitions.state()])

    @classmethod
    def from_bytes(
        cls, data: bytes, config: ReservoirConfig | None = None, opening: Sequence[int] | None = ()
    ) -> Reservoirs:
        """Inverse of `to_bytes`, cut down to `config`. StoreError when it is damaged.

        Records that today's config would put on the other side of the split are dropped: what was trained on
        never judges, and what judged is never trained on. Not so with `opening` None.
        """
        split = opening is not None
        opening = opening or ()
        reservoirs = cls(config, opening)
        try:
            schema, records, segments, arrivals, repetitions = cast(Any, unpack(data, "reservoirs"))
            if schema != _STATE_SCHEMA:
                raise StoreError(f"reservoirs have schema {schema}, expected {_STATE_SCHEMA}")
            opened = [(record, decode(record)) for record in records]
            held_out = {record for record, interaction in opened if reservoirs._is_held_out(interaction)}
            training = set(records) - held_out
            for name, seen, rooms in segments[-reservoirs.config.segments :]:
                segment = reservoirs._segments[str(name)] = _Segment(str(name), reservoirs.config)
                segment.seen = int(seen)
                for kind, room in segment.rooms.items():
                    room.restore(rooms[kind], records.__getitem__)
                    if split:
                        room.keep_only(held_out if kind in _JUDGING else training)
            reservoirs._arrivals.restore(arrivals, str)
            reservoirs._repetitions.restore(repetitions)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise StoreError(f"reservoirs are not readable: {error}") from error
        return reservoirs

    def _is_held_out(self, interaction: Interaction) -> bool:
        return is_held_out(interaction, self.config.held_out_fraction, self._opening)

    def _segment(self, name: str, tenant: str) -> _Segment:
        segment = self._segments.pop(name, None)
        if segment is None:
            while len(self._segments) >= self.config.segments:
                del self._segments[self._most_dispensable(tenant)]
            segment = _Segment(name, self.config)
        self._segments[name] = segment
        return segment

    def _most_dispensable(self, newcomer: str) -> str:
        owners = {name: segment.owner for name, segment in self._segments.items()}
        held = [*owners.values(), newcomer]
        most = max(set(held), key=lambda tenant: (held.count(tenant), tenant == newcomer))
        return next((name for name, owner in owners.items() if owner == most), next(iter(owners)))

    def _cells(self, source: str, only: str | None) -> dict[Cell, float]:
        """How much each tenant's records in each segment (or in one) would weigh in this source's share."""
        if source == "recent":
            cells: dict[Cell, float] = {}
            for tenant, names in self._arrivals.kept.items():
                for name in names:
                    known = only in (None, name) and name in self._segments
                    if known and tenant in self._segments[name].recent.kept:
                        cells[name, tenant] = cells.get((name, tenant), 0.0) + 1
            return cells
        rooms = {
            name: segment.rooms[source] for name, segment in self._segments.items() if only in (None, name)
        }
        totals = {name: len(room) for name, room in rooms.items()}
        return {
            (name, tenant): len(items) / totals[name]
            for name, room in rooms.items()
            for tenant, items in room.kept.items()
        }


def erase_stored(data: bytes, tenants: Collection[str]) -> bytes:
    """What `to_bytes` wrote, without these tenants, whatever the config was. Empty when it can't be read."""
    everything: dict[str, Any] = {
        entry.name: 2**31 for entry in fields(ReservoirConfig) if entry.type == "int" and entry.name != "seed"
    }
    config = ReservoirConfig(**everything)
    try:
        reservoirs = Reservoirs.from_bytes(data, config, None)
    except StoreError:
        return Reservoirs(config).to_bytes()
    for tenant in tenants:
        reservoirs.erase(tenant)
    return reservoirs.to_bytes()


def acceptance(interaction: Interaction) -> float | None:
    """Accepted draft tokens per try, over all depths; None when too few were tried to say."""
    tried = sum(interaction.tried)
    return sum(interaction.accepted) / tried if tried >= _MIN_TRIED else None
