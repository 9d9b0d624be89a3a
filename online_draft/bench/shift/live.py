"""The same traffic against a live system: Ray, Redis, replica, learner, control, as `serve` starts them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from online_draft.bench.demo.traffic import Client, Reply
from online_draft.bench.progress import Bars
from online_draft.bench.shift.events import Event, Twin
from online_draft.bench.shift.ladder import shown
from online_draft.bench.shift.options import ShiftOptions
from online_draft.bench.shift.phases import Traffic, plan
from online_draft.bench.shift.tally import Served, Tally, tau
from online_draft.core import GenerationRequest, Interaction, SamplingParams
from online_draft.launch import ChildSystem
from online_draft.learner.judge.ladder_view import LadderView
from online_draft.models.artifact import load_drafter
from online_draft.models.drafter import Drafter
from online_draft.models.loading import LoadedTarget
from online_draft.registry.journal import DecisionJournal
from online_draft.registry.ladder import LadderState, fold
from online_draft.settings import Settings, load_settings
from online_draft.store import ArtifactStore
from online_draft.training.replay import replayed_tau

_NOTE_WINDOW = 25
_LEARNER = ("slices", "looks", "tokens")


class LiveRun:
    """One run against a system of its own, which learns when and as much as it does by itself. What was found
    so far is there at any time, also after an interruption."""

    def __init__(self, options: ShiftOptions, loaded: LoadedTarget, drafter: Path, work: Path) -> None:
        """`drafter` is where it starts; `work` becomes the system's state directory."""
        self.tallies: list[Tally] = []
        self.events: list[Event] = []
        self.twins: list[Twin] = []
        self.failures: list[str] = []
        self.requests = 0
        self.serving_s = self.elapsed_s = 0.0
        self.learner: dict[str, int] = {}
        self.kernel: str | None = None
        self.static = load_drafter(drafter, loaded.target, loaded.fingerprint)
        """The drafter of the start."""
        self._options = options
        self._loaded = loaded
        self._settings = _settings(options, drafter, work / "system")
        store = ArtifactStore(self._settings.artifacts)
        self._journal = DecisionJournal(store, loaded.fingerprint)
        self._view = LadderView(
            store, loaded.target, loaded.fingerprint, work / "cache", lambda decision: None
        )
        self._champions: list[Drafter] = []
        self._seen = 0

    @property
    def state(self) -> LadderState:
        """The ladder's."""
        return fold(self._journal.read())

    def play(self, bars: Bars) -> None:
        """Start the system, send all phases, end it; then replay. LaunchError when it can't be started.
        KeyboardInterrupt leaves the current phase with what it has."""
        try:
            with ChildSystem(self._settings) as running:
                began = time.perf_counter()
                try:
                    asyncio.run(self._play(running.url, running.model, running.admin_key, bars))
                finally:
                    self.elapsed_s = time.perf_counter() - began
        finally:
            self._replay()

    async def _play(self, url: str, model: str, admin_key: str, bars: Bars) -> None:
        traffic, phases = Traffic(self._options, self._loaded), plan(self._options)
        total = sum(phase.requests for phase in phases)
        async with Client(url, model, admin_key, self._options.burst) as client:
            for phase in phases:
                tally = Tally(phase, self._options.window)
                self.tallies.append(tally)
                try:
                    await self._send(
                        client,
                        tally,
                        traffic,
                        lambda note: bars.update("requests", self.requests, total, note),
                    )
                finally:
                    self._note_decisions()
                    self._champions.append(self._champion())
            self._note_system(await client.status())

    async def _send(self, client: Client, tally: Tally, traffic: Traffic, note: Any) -> None:
        """A phase's bursts, each when it is due or, where answers take longer, at once."""
        asks = traffic.asks(tally.phase)
        pause_s = self._options.burst / self._options.rate
        while burst := list(islice(asks, self._options.burst)):
            due = time.monotonic() + pause_s
            found = await client.burst(burst)
            self.serving_s += found.seconds
            await self._check(client, found.replies)
            self._note_decisions()
            for reply in found.replies:
                self._count(tally, reply)
            recent = tau(tally.served[-_NOTE_WINDOW:])
            note(f"{tally.phase.kind} {tally.phase.segment}, τ {0 if recent is None else recent:.2f}")
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _check(self, client: Client, replies: Sequence[Reply]) -> None:
        """Ask again, decoded plainly, what is due to be compared."""
        every = self._options.check_every
        places = range(self.requests + 1, self.requests + 1 + len(replies))
        due = [
            r
            for place, r in zip(places, replies, strict=True)
            if every and place % every == 0 and not r.error
        ]
        if not due:
            return
        plain = await client.burst([reply.ask for reply in due], plain=True)
        for reply, twin in zip(due, plain.replies, strict=True):
            if twin.error is not None:
                self.failures.append(twin.error)
            else:
                self.twins.append(Twin(_request(reply), reply.token_ids, twin.token_ids))

    def _count(self, tally: Tally, reply: Reply) -> None:
        self.requests += 1
        if reply.error is not None:
            self.failures.append(reply.error)
            return
        record = self._record(reply)
        tally.served.append(Served(reply.steps, reply.committed, reply.tried, reply.accepted, record))

    def _record(self, reply: Reply) -> Interaction:
        sampling = _request(reply).sampling
        return Interaction(
            target=self._loaded.fingerprint,
            tenant="",
            segment=reply.ask.domain,
            prompt_ids=reply.prompt_ids,
            output_ids=reply.token_ids,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=sampling.seed,
            prompt_index=0,
            choice_index=0,
            accepted_lengths=reply.step_lengths,
            tried=reply.tried,
            accepted=reply.accepted,
            drafter_version=reply.version or "none",
            finished_at_ms=time.time_ns() // 1_000_000,
        )

    def _note_decisions(self) -> None:
        fresh = self._journal.read(after=self._seen)
        self._seen += len(fresh)
        self.events += [Event(self.requests, decision) for decision in fresh]

    def _champion(self) -> Drafter:
        version = self.state.champion
        return self.static if version is None else self._view.fetch(version)

    def _note_system(self, status: Mapping[str, Any] | None) -> None:
        known = status or {}
        self.kernel = (known.get("replica") or {}).get("kernel")
        learner = known.get("learner") or {}
        self.learner = {name: value for name, value in learner.items() if name in _LEARNER}

    def _replay(self) -> None:
        """Replay each phase's records through the drafter of the start, its end through its last champion."""
        target, nodes = self._loaded.target, self._options.tree_nodes
        for tally, champion in zip(self.tallies, self._champions, strict=False):
            records = [served.record for served in tally.served]
            tally.static = replayed_tau(self.static, target, records, nodes)
            last = [served.record for served in tally.last_window]
            tally.final = replayed_tau(champion, target, last, nodes)


def _request(reply: Reply) -> GenerationRequest:
    ask = reply.ask
    sampling = SamplingParams(temperature=ask.temperature, max_tokens=ask.max_tokens, seed=ask.seed)
    return GenerationRequest(f"r{ask.seed}", reply.prompt_ids, sampling, segment=ask.domain)


def _settings(options: ShiftOptions, drafter: Path, state_dir: Path) -> Settings:
    flags: dict[str, Any] = {
        "target": "embedded",
        "drafter": str(drafter),
        "port": 0,
        "state_dir": state_dir,
        # The heads alone at every step, as in the simulation; the plain copy of a request finds nothing that
        # the first one left in the cache.
        "engine": {
            "speculation": "always",
            "ngram": False,
            "tree_nodes": options.tree_nodes,
            "prefix_cache": False,
            "kernels": options.kernels,
        },
        "control": shown(),
    }
    if options.threads is not None:
        flags["threads"] = options.threads
    return load_settings(flags)
