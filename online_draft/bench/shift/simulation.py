"""Serving, learning and deciding in turns, in one process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from online_draft.bench.progress import Bars
from online_draft.bench.shift.events import Event, Twin
from online_draft.bench.shift.ladder import LADDER, Ladder
from online_draft.bench.shift.options import ShiftOptions
from online_draft.bench.shift.phases import Phase, Traffic, plan
from online_draft.bench.shift.pupil import Pupil
from online_draft.bench.shift.serving import Server
from online_draft.bench.shift.tally import Tally, tau
from online_draft.core import GenerationRequest
from online_draft.learner.config import LearnerConfig
from online_draft.learner.feed import assistant_tokens
from online_draft.learner.judge.ladder_view import LadderView
from online_draft.models.drafter import Drafter
from online_draft.models.loading import LoadedTarget
from online_draft.registry.ladder import LadderState
from online_draft.serve.lineup import Lineup, install_lineup
from online_draft.store import ArtifactStore
from online_draft.training.replay import ReplayResult, replayed_tau

_START = "start"
_NOTE_WINDOW = 25


class Simulation:
    """One run; what it found so far is there at any time, also after an interruption."""

    def __init__(self, options: ShiftOptions, loaded: LoadedTarget, drafter: Path, work: Path) -> None:
        """`drafter` is where it starts; `work` gets artifacts, journal and fetched drafters."""
        store = ArtifactStore(work / "artifacts")
        self.tallies: list[Tally] = []
        self.events: list[Event] = []
        self.twins: list[Twin] = []
        self.serving_s = 0.0
        self.requests = 0
        self.server = Server(options, loaded)
        self._options = options
        self._target = loaded.target
        self._ladder = Ladder(store, loaded.fingerprint, options.rate, LADDER)
        self._ladder.start(drafter, _START)
        self._view = LadderView(
            store, loaded.target, loaded.fingerprint, work / "cache", lambda decision: None
        )
        self.pupil = Pupil(
            loaded,
            _learner_config(options),
            self._view,
            options.tree_nodes,
            options.slice_records,
            assistant_tokens(loaded.tokenizer),
        )
        self._traffic = Traffic(options, loaded)
        self._seen = 0
        self._resident: dict[str, Drafter] = {}
        self._lineup: Lineup[Drafter] = Lineup()
        self._follow()
        self.static = self._resident[_START]
        """The drafter of the start."""

    @property
    def state(self) -> LadderState:
        """The ladder's."""
        return self._ladder.state

    @property
    def failures(self) -> list[str]:
        """Why requests failed."""
        return self.server.failed

    @property
    def learner(self) -> dict[str, int]:
        """What it did."""
        return self.pupil.total

    @property
    def elapsed_s(self) -> float:
        """Seconds of serving and learning."""
        return self.serving_s + self.pupil.seconds

    @property
    def kernel(self) -> str:
        """What ran the steps."""
        return self.server.engine.kernel

    def play(self, bars: Bars) -> None:
        """Send all phases. KeyboardInterrupt leaves the current one with what it has."""
        phases = plan(self._options)
        total = sum(phase.requests for phase in phases)
        for phase in phases:
            tally = Tally(phase, self._options.window)
            self.tallies.append(tally)
            try:
                for request in self._traffic.requests(phase):
                    self._turn(tally, request)
                    bars.update("requests", self.requests, total, self._note(phase, tally))
            finally:
                self._close(tally)

    def _turn(self, tally: Tally, request: GenerationRequest) -> None:
        """A request, then the learner's slices, then what is to be decided."""
        began = time.perf_counter()
        answer = self.server.answer(request)
        self.serving_s += time.perf_counter() - began
        self.requests += 1
        every = self._options.check_every
        if every and self.requests % every == 0 and answer.served is not None:
            self.twins.append(Twin(request, answer.token_ids, self.server.plain(request)))
        if answer.served is not None:
            tally.served.append(answer.served)
            self.pupil.feed.add(answer.served.record)
            self._ladder.note(request.segment, answer.version, answer.served.steps, answer.served.committed)
        self.pupil.work(self._options.slices)
        self._ladder.tick()
        self._follow()

    def _follow(self) -> None:
        """Bring learner and engine up to what was decided."""
        fresh = self._ladder.journal.read(after=self._seen)
        if self._seen and not fresh:
            return
        self._seen += len(fresh)
        self.events += [Event(self.requests, decision) for decision in fresh]
        self.pupil.follow()
        state = self._ladder.state
        wanted = (state.champion, None if state.arms is None else state.arms.second)
        known = self._resident
        self._resident = {
            version: known[version] if version in known else self._view.fetch(version)
            for version in wanted
            if version is not None
        }
        lineup = self._ladder.lineup(self._resident)
        if not lineup.same_as(self._lineup):
            install_lineup(self.server.engine, lineup, self._lineup)
            self._lineup = lineup

    def _close(self, tally: Tally) -> None:
        """Replay a phase's records through the drafter of the start, its end through today's champion."""
        nodes = self._options.tree_nodes
        records = [served.record for served in tally.served]
        tally.static = replayed_tau(self.static, self._target, records, nodes)
        champion = self._lineup.drafter
        assert champion is not None
        last = [served.record for served in tally.last_window]
        tally.final = replayed_tau(champion, self._target, last, nodes)

    def _note(self, phase: Phase, tally: Tally) -> str:
        state, recent = self._lineup, tau(tally.served[-_NOTE_WINDOW:])
        return f"{phase.kind} {phase.segment}, τ {0 if recent is None else recent:.2f}, {state.version}"


def _learner_config(options: ShiftOptions) -> LearnerConfig:
    config = LearnerConfig(seed=options.seed)
    mix = options.mix
    return config if mix is None else replace(config, reservoirs=mix.within(config.reservoirs))


def replay_ceilings(
    tallies: Sequence[Tally], ceilings: dict[str, Drafter], loaded: LoadedTarget, nodes: int
) -> None:
    """Replay every phase whose domains all have a ceiling, each record through that of its own domain."""
    for tally in tallies:
        if not set(tally.phase.domains) <= ceilings.keys():
            continue
        found: dict[int, ReplayResult] = {}
        for domain in dict.fromkeys(tally.phase.domains):
            places = [i for i, served in enumerate(tally.served) if served.record.segment == domain]
            records = [tally.served[i].record for i in places]
            results = replayed_tau(ceilings[domain], loaded.target, records, nodes)
            found |= dict(zip(places, results, strict=True))
        tally.ceiling = [found[i] for i in range(len(tally.served))]
