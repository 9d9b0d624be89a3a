"""Is a base better with an adapter than without? Asked of held-out records of the adapter's segment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from online_draft.buffer.reservoirs import Reservoirs
from online_draft.core import Interaction
from online_draft.learner.adapters.view import Weights
from online_draft.learner.config import LearnerConfig
from online_draft.learner.idle.pacer import Pacer
from online_draft.learner.judge.gate import Evaluation, Gate, Verdict
from online_draft.models.adapters.adapter import Adapter, AdapterCard
from online_draft.models.adapters.merge import merged
from online_draft.models.drafter import Drafter
from online_draft.models.target import Target
from online_draft.registry.manifest import Provenance
from online_draft.training.replay import ReplayResult


@dataclass(frozen=True, slots=True)
class Entrant:
    """Weights on their way through the gate. `former` waits in the journal; None: it was dropped already."""

    former: str | None
    card: AdapterCard
    weights: Weights
    provenance: Provenance


class Trials:
    """One at a time, piece by piece, as the learner's gate judges versions: every segment has its own alpha
    to spend while one champion serves. Not thread-safe."""

    def __init__(self, target: Target, config: LearnerConfig, nodes: int) -> None:
        self.entrant: Entrant | None = None
        """Who is tried now."""
        self._target = target
        self._config = config
        self._nodes = nodes
        device = target.device.type
        limit_ms = config.pace.limit_ms(device)
        self._pieces = Pacer(limit_ms, config.gate.max_records, cpu=device != "cuda")
        self._evaluation: Evaluation | None = None
        self._gates: dict[str, Gate] = {}
        self._without: dict[Interaction, ReplayResult] = {}

    def begin(self, entrant: Entrant, base: Drafter, adapter: Adapter, reservoirs: Reservoirs) -> None:
        """Try an adapter. ArtifactError when it doesn't fit the base."""
        held_out = reservoirs.held_out(entrant.card.segment)
        records = [record for record in held_out if len(record.output_ids) > 1]
        newest = records[-self._config.gate.max_records :]
        self._evaluation = Evaluation(
            merged(base, adapter), base, self._target, newest, self._nodes, self._without
        )
        self.entrant = entrant

    def advance(self, interrupted: Callable[[], bool]) -> Verdict | None:
        """Replay some records, of a slice's time; the verdict after the last ones. `end` it then."""
        evaluation, entrant = self._evaluation, self.entrant
        assert evaluation is not None and entrant is not None
        with self._pieces as count:
            if not evaluation.advance(count, interrupted):
                self._pieces.void()
        if not evaluation.done:
            return None
        gate = self._gates.setdefault(entrant.card.segment, Gate(self._config.gate, self._config.seed))
        return gate.judge(evaluation.records, evaluation.candidate_results, evaluation.champion_results)

    def end(self) -> None:
        """Nobody is tried now. Idempotent."""
        self.entrant = self._evaluation = None

    def forget_records(self) -> None:
        """Keep nothing of records looked at."""
        self._without = {}

    def start_over(self) -> None:
        """Another champion: nothing that was known is true any more."""
        self.end()
        self.forget_records()
        self._gates = {}

    def shrink(self) -> None:
        """There was no memory: take fewer records at a time."""
        self._pieces.shrink()
