"""Who would lose by a candidate that is better on the whole: segments and tenants, busy or at rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from online_draft.buffer.reservoirs import Reservoirs
from online_draft.core import Interaction
from online_draft.learner.config import GateConfig
from online_draft.training.compare import GroupNumbers, paired_loss
from online_draft.training.replay import ReplayResult

_SHOWN = 8
"""Segments in the journal, the worst ones."""


@dataclass(frozen=True, slots=True)
class GuardNumbers:
    """What the guard saw. Tenants have no names here: what is in the journal stays."""

    segments: dict[str, GroupNumbers]
    tenants: tuple[GroupNumbers, ...]
    reason: str
    """Why the candidate must not be proposed, or ""."""

    def as_numbers(self) -> dict[str, Any]:
        """For the journal: the worst segments, the worst tenant."""
        worst = sorted(self.segments.items(), key=lambda item: item[1].gain)[:_SHOWN]
        numbers: dict[str, Any] = {"segments": {name: asdict(group) for name, group in worst}}
        if self.tenants:
            numbers["worst_tenant"] = asdict(min(self.tenants, key=lambda group: group.gain))
        return numbers


class Guard:
    """Blocks a candidate with which a segment or a tenant surely loses. Deterministic, no state.

    It judges by held-out records of any age, the first of each segment among them: the gate's own are those
    since the last promotion, in which a segment at rest has none.
    """

    def __init__(self, config: GateConfig, seed: int = 0) -> None:
        self._config = config
        self._seed = seed

    def records(self, reservoirs: Reservoirs) -> list[Interaction]:
        """For each segment `guard_records` at most: half of them its first, the others its newest, in turn of
        each of its tenants. Segments with fewer than `segment_records` are left out."""
        chosen: list[Interaction] = []
        for segment in reservoirs.sizes():
            first = _in_turn(_usable(reservoirs.held_out(segment, frozen=True)))
            newest = _in_turn(_usable(reservoirs.held_out(segment))[::-1])
            half = self._config.guard_records // 2
            records = list(dict.fromkeys([*first[:half], *newest, *first]))[: self._config.guard_records]
            if len(records) >= self._config.segment_records:
                chosen += records
        return chosen

    def judge(
        self,
        records: Sequence[Interaction],
        candidate: Sequence[ReplayResult],
        champion: Sequence[ReplayResult],
    ) -> GuardNumbers:
        """Paired results on `records`."""

        def groups(key: Callable[[Interaction], str]) -> dict[str, GroupNumbers]:
            found: dict[str, GroupNumbers] = {}
            for name in dict.fromkeys(map(key, records)):
                pairs = [i for i, record in enumerate(records) if key(record) == name]
                if len(pairs) >= self._config.segment_records:
                    found[name] = self._compare([candidate[i] for i in pairs], [champion[i] for i in pairs])
            return found

        segments = groups(lambda record: record.segment)
        tenants = groups(lambda record: record.tenant)
        losers = [f"segment {name}: {_told(group)}" for name, group in segments.items() if group.blocks]
        losers += [f"one tenant's records: {_told(group)}" for group in tenants.values() if group.blocks]
        reason = "; ".join(losers[:3])
        return GuardNumbers(segments, tuple(tenants.values()) if len(tenants) > 1 else (), reason)

    def _compare(self, candidate: Sequence[ReplayResult], champion: Sequence[ReplayResult]) -> GroupNumbers:
        config = self._config
        return paired_loss(
            candidate, champion, self._seed, config.resamples, config.segment_alpha, config.segment_loss
        )


def _told(group: GroupNumbers) -> str:
    return f"gain {group.gain:+.2%}, at most {group.upper_bound:+.2%}, on {group.records} records"


def _usable(records: Sequence[Interaction]) -> list[Interaction]:
    return [record for record in records if len(record.output_ids) > 1]


def _in_turn(records: Sequence[Interaction]) -> list[Interaction]:
    """The first of each tenant, then the second of each, and so on."""
    by_tenant: dict[str, int] = {}
    rank = []
    for record in records:
        rank.append(by_tenant.get(record.tenant, 0))
        by_tenant[record.tenant] = rank[-1] + 1
    return [records[i] for i in sorted(range(len(records)), key=lambda i: rank[i])]
