"""The n-gram memory beside the engine: what it knows of each sequence, and when it is asked.

Shapes: M nodes of a proposal.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Collection
from dataclasses import dataclass, field
from typing import Any

from online_draft.decoding.policy.deciles import Deciles
from online_draft.decoding.policy.ngram_calibration import NgramCalibration
from online_draft.decoding.sequence import Sequence
from online_draft.models.ngram import NgramConfig, NgramMemory, NgramTree

_LONGEST_WAIT = 16
"""Tokens between two looks for a sequence whose proposals aren't used, at most."""
_SAMPLE = 4
_SETTLED = 200
"""So many proposals are all compared with what came; then every `_SAMPLE`th."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the memory proposes for a sequence: `values` [M] are the calibrated path probabilities."""

    tree: NgramTree
    values: list[float]


@dataclass(slots=True)
class _Watch:
    """`known` tokens of a sequence are in the memory; the next look is due at `due` tokens."""

    known: int
    due: int = 0
    wait: int = 0
    last: tuple[int, NgramTree] | None = None
    """A proposal that waits to be compared with what came, and how long the text was."""


@dataclass
class NgramDrafts:
    """Asks an n-gram memory for proposals, and tells it what was written.

    A sequence costs nothing between two looks: the memory catches up when it is asked. Looks whose proposals
    aren't used become rarer, so that text that doesn't repeat itself costs next to nothing. Never raises for
    slots it doesn't know; a slot must be ended before another sequence gets it.
    """

    config: NgramConfig = field(default_factory=NgramConfig)

    def __post_init__(self) -> None:
        self.memory = NgramMemory(self.config)
        self._calibration = NgramCalibration()
        self._watched: dict[int, _Watch] = {}
        self._looks = self._found = self._seen = self._turn = 0

    def look(
        self, sequences: Collection[Sequence], nodes: int, least: int, looks: int | None = None
    ) -> tuple[dict[int, Proposal], int]:
        """Proposals of at most `nodes` nodes for those of `sequences` (by index, in order) that have any, and
        how many were looked up.

        Only what follows matches of at least `least` tokens counts. With `looks`, at most so many are looked
        up, by turns, and only those for which it is time; else all.
        """
        found: dict[int, Proposal] = {}
        count, looked = len(sequences), 0
        first = self._turn % count if looks is not None else 0
        for index in (*range(first, count), *range(first)) if first else range(count):
            sequence = sequences[index]
            watch = self._watched.get(sequence.slot)
            if looks is not None:
                if watch is not None and len(sequence.tokens) < watch.due:
                    continue
                if looked == looks:
                    self._turn = index
                    break
            looked += 1
            proposal = self._ask(sequence, watch, nodes, least)
            if proposal is not None:
                found[index] = proposal
        if first:
            found = dict(sorted(found.items()))
        return found, looked

    def due(self, sequences: Iterable[Sequence]) -> bool:
        """Whether it is time to look up one of these."""
        watched = self._watched
        for sequence in sequences:
            watch = watched.get(sequence.slot)
            if watch is None or len(sequence.tokens) >= watch.due:
                return True
        return False

    def used(self, sequences: Iterable[Sequence]) -> None:
        """Proposals for these are verified: look again behind them."""
        for sequence in sequences:
            watch = self._watched[sequence.slot]
            watch.wait = watch.due = 0

    def end(self, slot: int) -> None:
        """A slot's sequence ended, or has to be computed again. Idempotent."""
        if self._watched.pop(slot, None) is not None:
            self.memory.close(slot, False)

    def remember(self, sequence: Sequence) -> None:
        """Let its tenant's later requests find what a sequence has said."""
        self.memory.remember(sequence.request.tenant, sequence.tokens, sequence.generated)

    def forget(self, tenant: str) -> None:
        """Erase what is remembered of a tenant. Idempotent."""
        self.memory.forget(tenant)

    def check_integrity(self, slots: Collection[int]) -> None:
        """Assert that only these slots are open, and that the memory is sound."""
        assert self._watched.keys() <= set(slots), "a slot's n-grams were not given up"
        assert self.memory.stats().requests == len(self._watched), "a request is open that nobody watches"
        self.memory.check_integrity()

    @property
    def deciles(self) -> Deciles:
        """What was promised of proposed nodes, and what came."""
        return self._calibration.deciles

    def report(self) -> dict[str, Any]:
        """`looks` and how many `found` something; `calibration`, and what the memory holds."""
        stats = self.memory.stats()
        return {
            "looks": self._looks,
            "found": self._found,
            "calibration": self._calibration.report(),
            "tenants": stats.tenants,
            "tokens": stats.request_tokens + stats.tenant_tokens,
            "bytes": stats.bytes,
        }

    def _ask(self, sequence: Sequence, watch: _Watch | None, nodes: int, least: int) -> Proposal | None:
        slot, tokens = sequence.slot, sequence.tokens
        if watch is None:
            prompt = sequence.request.prompt_ids
            self.memory.open(slot, sequence.request.tenant, prompt)
            watch = self._watched[slot] = _Watch(len(prompt))
        else:
            self._compare(sequence, watch)
        if watch.known < len(tokens):
            self.memory.extend(slot, tokens[watch.known :])
            watch.known = len(tokens)
        self._looks += 1
        watch.wait = min(2 * watch.wait + 1, _LONGEST_WAIT)
        watch.due = len(tokens) + watch.wait
        tree = self.memory.propose(slot, min(nodes, sequence.remaining - 1), least=least)
        if not tree.nodes:
            return None
        self._found += 1
        watch.last = len(tokens), tree
        return Proposal(tree, self._calibration.values(tree))

    def _compare(self, sequence: Sequence, watch: _Watch) -> None:
        """Learn from the last proposal, whether it was verified or not."""
        if watch.last is None:
            return
        (length, tree), watch.last = watch.last, None
        self._seen += 1
        if self._seen < _SETTLED or self._seen % _SAMPLE == 0:
            came = sequence.tokens[length : length + self.config.depth]
            if came:
                self._calibration.observe(tree, came)
