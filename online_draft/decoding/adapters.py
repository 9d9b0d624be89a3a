"""The adapters of one engine: known by name, resident in a stack, one for each segment."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from online_draft.errors import ArtifactError, ConfigError
from online_draft.models.adapters.adapter import Adapter
from online_draft.models.adapters.stack import AdapterStack
from online_draft.models.artifact import base_digest
from online_draft.models.drafter import Drafter, DraftState


class EngineAdapters:
    """Says which adapter each slot drafts with. Nothing here changes an output.

    Loaded adapters are kept in the host's memory; at most `residents` of them are in the stack that drafts
    read. One that a new request needs takes the place of the longest unused one that nobody uses; when all
    are in use, the request drafts without. With another base drafter they are all dropped.
    """

    def __init__(self, residents: int, rank: int) -> None:
        self._limit = residents
        self._rank = rank
        self._drafter: Drafter | None = None
        self._state: DraftState | None = None
        self._digest: str | None = None
        self._known: dict[str, Adapter] = {}
        self._by_segment: dict[str, str] = {}
        self._places: OrderedDict[str, int] = OrderedDict()
        """Of the residents, longest unused first."""
        self._segments: dict[int, str] = {}
        """Of each slot that decodes."""
        self._dropped: list[str] = []
        self._evictions = 0
        self._reassigned = 0

    def drafter_changed(
        self, drafter: Drafter | None, state: DraftState | None, segments: Mapping[int, str]
    ) -> None:
        """This drafter, and this state of it, drafts for these slots from now on.

        Adapters of another base are dropped; what the state before was adapted to is taken back.
        """
        former, slots = self._state, self._segments
        if state is former:
            for slot, segment in segments.items():
                if slot not in slots:
                    self.follow(slot, segment)
            return
        stack = None if former is None else former.adapters
        same = bool(self._known) and drafter is not None and base_digest(drafter) == self._base()
        if former is not None:
            former.adapters = None
            for slot in slots:
                former.assign(slot, 0)
        self._dropped = [] if same else sorted(self._known)
        self._drafter, self._state, self._segments = drafter, state, dict(segments)
        if same and state is not None:
            state.adapters = stack
            for slot, segment in segments.items():
                state.assign(slot, self._places.get(self._by_segment.get(segment, ""), 0))
            return
        self._digest = None
        self._known, self._by_segment = {}, {}
        self._places.clear()

    def load(self, name: str, adapter: Adapter) -> None:
        """Draft with this adapter for its segment from the next step on, instead of its forerunner.

        Only the sequences of this segment are drafted for anew from the ring. ArtifactError, and nothing is
        changed, when it doesn't belong to the drafter that runs.
        """
        if not self._limit:
            raise ConfigError("engine.max_adapters", "must be at least 1 to load an adapter, is 0")
        if self._drafter is None or self._state is None:
            raise ArtifactError("no drafter runs that an adapter could change")
        adapter.check(self._drafter)
        if adapter.card.base_digest != self._base():
            raise ArtifactError(
                f"the adapter is for base {adapter.card.base_version or adapter.card.base_digest[:16]}, "
                f"not for the drafter that runs ({self._base()[:16]})"
            )
        if adapter.rank > self._rank:
            raise ArtifactError(
                f"the adapter's rank {adapter.rank} is above engine.adapter_rank {self._rank}"
            )
        segment = adapter.card.segment
        for other in {name, self._by_segment.get(segment, name)}:
            self.unload(other)
        self._known[name] = adapter
        self._by_segment[segment] = name
        self._dropped = [other for other in self._dropped if other != name]
        place = self._reside(name, force=True)
        for slot, used in self._segments.items():
            if used == segment:
                self._reassign(slot, place)

    def unload(self, name: str) -> bool:
        """Forget an adapter; its sequences go on without. False if there is none of this name."""
        adapter = self._known.pop(name, None)
        if adapter is None:
            return False
        del self._by_segment[adapter.card.segment]
        self._evict(name)
        return True

    def follow(self, slot: int, segment: str) -> None:
        """A sequence of this segment begins in a slot."""
        self._segments[slot] = segment
        name = self._by_segment.get(segment)
        if self._state is not None:
            self._state.assign(slot, 0 if name is None else self._reside(name))

    def forget(self, slot: int) -> None:
        """The slot is free again. Idempotent."""
        self._segments.pop(slot, None)
        if self._state is not None:
            self._state.assign(slot, 0)

    def report(self) -> dict[str, Any]:
        """Names `loaded` by segment, `resident`, `dropped` by the last change of the base; counts of
        `evictions` and of running sequences `reassigned` to another adapter."""
        return {
            "loaded": dict(self._by_segment),
            "resident": list(self._places),
            "dropped": list(self._dropped),
            "evictions": self._evictions,
            "reassigned": self._reassigned,
        }

    def _base(self) -> str:
        if self._digest is None:
            assert self._drafter is not None
            self._digest = base_digest(self._drafter)
        return self._digest

    def _reside(self, name: str, force: bool = False) -> int:
        """The adapter's place in the stack, made free if need be; 0 if there is none and it isn't forced."""
        if name not in self._places:
            if len(self._places) == self._limit:
                used = self._in_use()
                idle = [other for other, place in self._places.items() if place not in used]
                if not idle and not force:
                    return 0
                self._evict(idle[0] if idle else next(iter(self._places)))
                self._evictions += 1
            taken = set(self._places.values())
            place = next(place for place in range(1, self._limit + 1) if place not in taken)
            self._stack().put(place, self._known[name])
            self._places[name] = place
        self._places.move_to_end(name)
        return self._places[name]

    def _evict(self, name: str) -> None:
        place = self._places.pop(name, 0)
        if place and self._state is not None:
            for slot in self._segments:
                if self._state.place[slot] == place:
                    self._reassign(slot, 0)
            self._stack().clear(place)

    def _reassign(self, slot: int, place: int) -> None:
        """Give a sequence in mid-sentence another adapter."""
        assert self._state is not None
        self._reassigned += self._state.place[slot] != place
        self._state.assign(slot, place)

    def _in_use(self) -> set[int]:
        assert self._state is not None
        return {self._state.place[slot] for slot in self._segments}

    def _stack(self) -> AdapterStack:
        """Made when the first adapter comes."""
        assert self._drafter is not None and self._state is not None
        if self._state.adapters is None:
            weight = next(self._drafter.parameters())
            self._state.adapters = AdapterStack(
                self._drafter.adapter_sites(), self._limit, self._rank, weight.dtype, weight.device
            )
        return self._state.adapters
