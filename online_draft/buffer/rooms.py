"""Bounded rooms for records. Where there is no place left, the tenant that holds most gives way.

Dropping from the longest queue gives every tenant what it brings, up to an equal share of the room (max-min
fairness; Suter et al. 1998, "longest queue drop"). One tenant alone may fill it; a flood only ever pushes out
its own records.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Room(Generic[T]):
    """`capacity` items over all tenants. The oldest give way: a ring. No I/O, not thread-safe."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.kept: dict[str, list[T]] = {}
        """Items by tenant, in the order of their coming (rooms that choose may change it)."""

    def __len__(self) -> int:
        return sum(map(len, self.kept.values()))

    def __iter__(self) -> Iterator[T]:
        for items in self.kept.values():
            yield from items

    def add(self, tenant: str, item: T) -> None:
        """Take an item in; beyond the capacity one is dropped, maybe this one."""
        self.kept.setdefault(tenant, []).append(item)
        if len(self) > self.capacity:
            # On a tie the newcomer has one more by now: it gives way itself.
            self._drop_one(max(self.kept, key=lambda name: len(self.kept[name])))

    def erase(self, tenant: str) -> list[T]:
        """Forget a tenant; what it had here."""
        return self.kept.pop(tenant, [])

    def state(self, plain: Callable[[T], Any]) -> Any:
        """Plain data for `restore`; `plain` turns an item into such."""
        return [[tenant, [plain(item) for item in items]] for tenant, items in self.kept.items()]

    def restore(self, state: Any, item: Callable[[Any], T]) -> None:
        """Take over a `state`, cut down to this capacity; `item` is the inverse of `plain`."""
        self.kept = {str(tenant): [item(one) for one in items] for tenant, items in state}
        while len(self) > self.capacity:
            self._drop_one(max(self.kept, key=lambda name: len(self.kept[name])))

    def keep_only(self, wanted: Iterable[T]) -> None:
        """Drop every item that isn't among these."""
        allowed = set(wanted)
        kept = {tenant: [item for item in items if item in allowed] for tenant, items in self.kept.items()}
        self.kept = {tenant: items for tenant, items in kept.items() if items}

    def _drop_one(self, tenant: str) -> None:
        items = self.kept[tenant]
        del items[self._victim(items)]
        if not items:
            del self.kept[tenant]

    def _victim(self, items: list[T]) -> int:
        return 0


class Founders(Room[T]):
    """The first items stay for good; a tenant that came early gives its newest to one that comes late."""

    def _victim(self, items: list[T]) -> int:
        return len(items) - 1


class Sample(Room[T]):
    """Of each tenant a uniform sample of all that it brought (reservoir sampling, algorithm R; Vitter 1985).

    Draws depend on `seed` and on the counts alone, so that a restored sample goes on as the one that stopped.
    """

    def __init__(self, capacity: int, seed: str) -> None:
        super().__init__(capacity)
        self.seen: dict[str, int] = {}
        """How many items each tenant ever brought."""
        self._seed = seed

    def add(self, tenant: str, item: T) -> None:
        """Take an item in, or not, by chance."""
        self.seen[tenant] = seen = self.seen.get(tenant, 0) + 1
        items = self.kept.get(tenant, [])
        if len(self) < self.capacity or len(items) == seen - 1:
            super().add(tenant, item)
            return
        # Others have kept this tenant's part small: it stays a sample of that size.
        slot = random.Random(f"{self._seed}:{tenant}:{seen}").randrange(seen)
        if slot < len(items):
            items[slot] = item

    def erase(self, tenant: str) -> list[T]:
        """Forget a tenant; what it had here."""
        self.seen.pop(tenant, None)
        return super().erase(tenant)

    def state(self, plain: Callable[[T], Any]) -> Any:
        """Plain data for `restore`; `plain` turns an item into such."""
        return [super().state(plain), self.seen]

    def restore(self, state: Any, item: Callable[[Any], T]) -> None:
        """Take over a `state`, cut down to this capacity; `item` is the inverse of `plain`."""
        kept, seen = state
        self.seen = {str(tenant): int(count) for tenant, count in seen.items()}
        super().restore(kept, item)

    def _victim(self, items: list[T]) -> int:
        return random.Random(f"{self._seed}:{sum(self.seen.values())}:{len(items)}").randrange(len(items))


class Hardest(Room[T]):
    """Of the last `window` items those with the lowest score."""

    def __init__(self, capacity: int, window: int) -> None:
        super().__init__(capacity)
        self._window = window
        self._marks: dict[T, tuple[float, int]] = {}
        """Score of each item, and the number of its coming."""

    def offer(self, tenant: str, item: T, score: float, number: int) -> None:
        """Take an item in if it is hard enough. `number` grows; items `window` older are forgotten."""
        oldest = number - self._window
        self.keep_only([kept for kept in self if self._marks[kept][1] > oldest])
        self._marks[item] = (score, number)
        self.add(tenant, item)
        self._marks = {kept: self._marks[kept] for kept in self}

    def erase(self, tenant: str) -> list[T]:
        """Forget a tenant; what it had here."""
        gone = super().erase(tenant)
        self.keep_only(list(self))
        return gone

    def keep_only(self, wanted: Iterable[T]) -> None:
        """Drop every item that isn't among these."""
        super().keep_only(wanted)
        self._marks = {item: self._marks[item] for item in self}

    def state(self, plain: Callable[[T], Any]) -> Any:
        """Plain data for `restore`; `plain` turns an item into such."""
        return [super().state(plain), [[plain(item), *self._marks[item]] for item in self]]

    def restore(self, state: Any, item: Callable[[Any], T]) -> None:
        """Take over a `state`, cut down to this capacity; `item` is the inverse of `plain`."""
        kept, marks = state
        self._marks = {item(one): (float(score), int(number)) for one, score, number in marks}
        super().restore(kept, item)
        self.keep_only(list(self))

    def _victim(self, items: list[T]) -> int:
        return max(range(len(items)), key=lambda place: self._marks[items[place]][0])
