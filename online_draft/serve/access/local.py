"""What an ingress knows of the buckets by itself: how full they were, and its share while Redis is away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from online_draft.serve.access.bucket import SECOND, Demand, Level


@dataclass(slots=True)
class _Book:
    """One bucket: `seen` is when the shared one is full, as Redis said last; `share` the same of our share of
    it, None while Redis is there; `parts` into how many it was split."""

    demand: Demand
    seen: float = 0.0
    share: float | None = None
    parts: int = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether all demands were met (else nothing was taken), and the level of each bucket."""

    met: bool
    levels: tuple[Level, ...] = ()
    streams: int | None = None


class LocalBuckets:
    """All buckets of one ingress. Times are Redis's microseconds.

    With Redis away each of N ingresses has an N-th of every bucket, filled as the whole was and refilled at
    an N-th of the rate: all shares together are the bucket. Back again, what a share misses beyond what the
    whole would have missed by now is taken from the whole (`excess`).
    """

    def __init__(self) -> None:
        self._books: dict[str, _Book] = {}

    def take(self, demands: Sequence[Demand], parts: int, now: float, forced: bool) -> Verdict:
        """Take from the shares."""
        books = [self._book(demand) for demand in demands]
        after = []
        for book, demand in zip(books, demands, strict=True):
            if book.share is None:
                book.share, book.parts = book.seen, parts
            after.append(max(book.share, now) + demand.cost_us * book.parts)
        pairs = list(zip(demands, after, strict=True))
        met = forced or all(full_at <= now + demand.burst_us + 1 for demand, full_at in pairs)
        levels = []
        for book, (demand, full_at) in zip(books, pairs, strict=True):
            if met:
                book.share = full_at
            assert book.share is not None
            levels.append(Level.at(demand, book.share, now, met))
        return Verdict(met, tuple(levels))

    def seen(self, demand: Demand) -> float:
        """When the shared bucket is full, as Redis said last."""
        return self._book(demand).seen

    def excess(self, demand: Demand, now: float) -> float:
        """What our share's spending adds to the shared bucket. 0 where nothing was spent."""
        book = self._book(demand)
        if book.share is None:
            return 0.0
        return (max(0.0, book.share - now) - max(0.0, book.seen - now)) / book.parts

    def learn(self, demand: Demand, full_at: float) -> None:
        """Redis said when the shared bucket is full; it knows of our share's spending now."""
        book = self._book(demand)
        book.seen, book.share = full_at, None

    def owing(self) -> list[Demand]:
        """Buckets whose share was used: a demand of nothing for each."""
        return [book.demand for book in self._books.values() if book.share is not None]

    def forget_full(self, now: float) -> None:
        """Drop what says no more than "full"."""
        grace = 2 * SECOND
        for name, book in list(self._books.items()):
            if max(book.seen, book.share or 0.0) + grace < now:
                del self._books[name]

    def _book(self, demand: Demand) -> _Book:
        book = self._books.get(demand.name)
        if book is None:
            nothing = Demand(demand.key, demand.kind, demand.per_minute, demand.burst_s, 0.0)
            book = self._books[demand.name] = _Book(nothing)
        return book
