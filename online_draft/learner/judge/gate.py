"""The gate: may this candidate be proposed? Replayed τ on held-out records, paired with the champion's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from online_draft.buffer.reservoirs import Reservoirs
from online_draft.core import Interaction
from online_draft.learner.config import GateConfig
from online_draft.learner.judge.guard import GuardNumbers
from online_draft.models.drafter import Drafter
from online_draft.models.target import Target
from online_draft.training.compare import GateNumbers, paired_bootstrap
from online_draft.training.features import extract
from online_draft.training.replay import ReplayResult, replay_features

_WORSE_ALPHA = 0.05
_RESAMPLES_PER_ALPHA = 10
_MOST_RESAMPLES = 20_000


@dataclass(slots=True)
class GateBooks:
    """What the gate remembers while one champion serves: `since_ms` its promotion, `looks` taken so far,
    `newest_ms` the newest record of the last look, `refusals` in the journal and when the last one was."""

    since_ms: int = 0
    looks: int = 0
    newest_ms: int = 0
    refusals: int = 0
    refused_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The numbers of one look; `worse`: the champion is better with confidence. `guard` is what those see who
    could lose, once the look has passed."""

    numbers: GateNumbers
    look: int
    worse: bool
    guard: GuardNumbers | None = None

    @property
    def passed(self) -> bool:
        """Whether the candidate may be proposed, as far as is known."""
        return self.numbers.passed and not (self.guard and self.guard.reason)

    @property
    def reason(self) -> str:
        """Why, or why not."""
        return (self.guard.reason if self.guard else "") or self.numbers.reason

    def as_numbers(self) -> dict[str, Any]:
        """For the journal."""
        shown = {
            name: value for name, value in asdict(self.numbers).items() if name not in ("passed", "reason")
        }
        guard = self.guard.as_numbers() if self.guard else {}
        return {**shown, "look": self.look, **guard}


class Gate:
    """Spends `alpha` over its looks at one champion's challengers: look i gets alpha / (i (i + 1))."""

    def __init__(self, config: GateConfig, seed: int = 0, books: GateBooks | None = None) -> None:
        self.config = config
        self.books = books or GateBooks()
        self._seed = seed

    def reset(self, since_ms: int) -> None:
        """Another champion serves since then: only younger records count, all of `alpha` is there again."""
        self.books = GateBooks(since_ms=since_ms)

    def records(self, reservoirs: Reservoirs) -> tuple[list[Interaction], str]:
        """The held-out records of the next look, and "" or why it must wait."""
        held_out = [r for r in reservoirs.held_out(since_ms=self.books.since_ms) if len(r.output_ids) > 1]
        if len(held_out) < self.config.min_records:
            return [], f"{len(held_out)} of {self.config.min_records} held-out records"
        new = sum(record.finished_at_ms > self.books.newest_ms for record in held_out)
        if self.books.looks and new < self.config.min_new_records:
            return [], f"{new} of {self.config.min_new_records} new held-out records"
        return held_out[-self.config.max_records :], ""

    def judge(
        self,
        records: Sequence[Interaction],
        candidate: Sequence[ReplayResult],
        champion: Sequence[ReplayResult],
    ) -> Verdict:
        """Take one look at paired results on `records`. Deterministic."""
        books, config = self.books, self.config
        books.looks += 1
        books.newest_ms = max((record.finished_at_ms for record in records), default=books.newest_ms)
        alpha = config.alpha / (books.looks * (books.looks + 1))
        resamples = max(config.resamples, min(_MOST_RESAMPLES, math.ceil(_RESAMPLES_PER_ALPHA / alpha)))
        seed = self._seed + books.looks
        numbers = paired_bootstrap(
            candidate, champion, seed, resamples, alpha, config.min_gain, config.min_records
        )
        reverse = paired_bootstrap(
            champion, candidate, seed, config.resamples, _WORSE_ALPHA, 0.0, config.min_records
        )
        return Verdict(numbers, books.looks, worse=reverse.passed)

    def refusal_due(self, now_ms: int) -> bool:
        """Whether a failed look should enter the journal now; True books it."""
        books = self.books
        pause_ms = self.config.refuse_every_s * 1000 * 2 ** min(books.refusals - 1, 16)
        if books.refusals and now_ms - books.refused_at_ms < pause_ms:
            return False
        books.refusals += 1
        books.refused_at_ms = now_ms
        return True


class Evaluation:
    """Replays records through candidate and champion, a few at a time, so that it can yield in between.

    `cache` holds the champion's results by record; they stay true as long as that champion does.
    """

    def __init__(
        self,
        candidate: Drafter,
        champion: Drafter,
        target: Target,
        records: Sequence[Interaction],
        nodes: int,
        cache: dict[Interaction, ReplayResult],
    ) -> None:
        self.candidate = candidate
        self.records = list(records)
        self.candidate_results: list[ReplayResult] = []
        self._champion = champion
        self._target = target
        self._nodes = nodes
        self._cache = cache

    @property
    def done(self) -> bool:
        """Whether every record was replayed."""
        return len(self.candidate_results) == len(self.records)

    @property
    def champion_results(self) -> list[ReplayResult]:
        """The champion's results so far, paired with `candidate_results`."""
        return [self._cache[record] for record in self.records[: len(self.candidate_results)]]

    def extend(self, records: Sequence[Interaction]) -> bool:
        """Replay these, too, as far as they aren't among the records yet; whether there are any."""
        known = set(self.records)
        new = [record for record in records if record not in known]
        self.records += new
        return bool(new)

    def advance(self, count: int, interrupted: Callable[[], bool] = lambda: False) -> bool:
        """Replay the next `count` records; False when `interrupted()` said so on the way, and it must be done
        again. Blocks for as long as that takes."""
        start = len(self.candidate_results)
        batch = self.records[start : start + count]
        if not batch:
            return True
        features = extract(self._target, batch)
        if interrupted():
            return False
        results = replay_features(self.candidate, features, self._nodes)
        if interrupted():
            return False
        if not all(record in self._cache for record in batch):
            champion = replay_features(self._champion, features, self._nodes)
            self._cache.update(zip(batch, champion, strict=True))
        self.candidate_results += results
        return True
