"""The decoding engine: one target, one device, many sequences.

Shapes: S sequences, N nodes of a tree, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from online_draft.core import GenerationRequest, StepOutput
from online_draft.decoding.adapters import EngineAdapters
from online_draft.decoding.admission import Admission
from online_draft.decoding.batch import SlotTable
from online_draft.decoding.blocks import BlockPool
from online_draft.decoding.choices import TargetChoices
from online_draft.decoding.collect import collect
from online_draft.decoding.commit import Commit
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.drafting.arms import Arms
from online_draft.decoding.drafting.making import make_drafting, measured_profile
from online_draft.decoding.drafting.ngrams import NgramDrafts
from online_draft.decoding.drafting.staging import Staging
from online_draft.decoding.feed import RingFeed
from online_draft.decoding.masks import TokenMask
from online_draft.decoding.memory import kv_tokens_for
from online_draft.decoding.plan import CacheStats, StepPlan
from online_draft.decoding.retarget import TargetChange
from online_draft.decoding.runners.base import Memory
from online_draft.decoding.runners.select import RunnerChoice
from online_draft.decoding.scheduler import Scheduler
from online_draft.decoding.sequence import Sequence
from online_draft.decoding.timer import StepTimer
from online_draft.errors import ConfigError
from online_draft.models.drafter import Drafter
from online_draft.models.kv import KVCache
from online_draft.models.loading import LoadedTarget
from online_draft.models.ring import FeatureRing


class Engine:
    """Continuous batching with speculative decoding whose output is that of the target alone.

    Call `add` and then `step` until `has_work` is False. Not thread-safe: one thread owns an engine, and
    everything (swaps too) happens between two steps. `clock` gives seconds, for deadlines.
    """

    def __init__(
        self,
        loaded: LoadedTarget,
        config: EngineConfig = EngineConfig(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.target = loaded.target
        limit = loaded.config.max_position_embeddings
        if config.max_context is not None and config.max_context > limit:
            raise ConfigError(
                "engine.max_context", f"the target's context is {limit}, got {config.max_context}"
            )
        self.max_context = config.max_context or limit
        self._fingerprint = loaded.fingerprint
        device, dtype = self.target.device, self.target.dtype
        tokens = kv_tokens_for(config, self.target)
        self._pool = BlockPool(tokens + config.block_size, config.block_size)
        self._kv = KVCache(loaded.config, self._pool.num_blocks * config.block_size, dtype, device)
        self._table = SlotTable(config.max_sequences, self.max_context + config.tree_nodes, device)
        self._scheduler = Scheduler(config, self._pool, clock)
        self._admission = Admission(loaded, self._scheduler, self._pool.usable, self.max_context)
        self._ring = FeatureRing(
            config.max_sequences, config.feature_window, loaded.config.hidden_size, dtype, device
        )
        self._memory = Memory(self._kv, self._ring, self._table)
        self._runners = RunnerChoice(self.target, config)
        # By thread: whoever asks later may be on another one.
        self._torch_threads = torch.get_num_threads()
        self._runner = self._runners.make(self._memory)
        self._feed = RingFeed(self._runner, self._ring)
        self._choices = TargetChoices(loaded.config.vocab_size, device)
        self._arms = Arms.none()
        self._staging = Staging(config, self.max_context)
        self.adapters = EngineAdapters(config.max_adapters, config.adapter_rank)
        """Of the champion, by segment: `load` and `unload` between two steps disturb no other sequence."""
        self._ngrams = NgramDrafts() if config.ngram else None
        self._change: TargetChange | None = None
        self.timer: StepTimer | None = None
        """Only benchmarks set one."""
        self.on_admission: Callable[[str], None] | None = None
        """Told the id of each request that leaves the queue."""
        self.steps = 0
        self._set_policy()

    @property
    def has_work(self) -> bool:
        """Whether `step` would do something."""
        return self._scheduler.waiting + self._scheduler.running > 0 or self._change is not None

    def add(self, request: GenerationRequest, token_mask: TokenMask | None = None) -> None:
        """Queue a request; `token_mask` says which tokens its output may consist of.

        Raises `RequestError` (wrong or doesn't fit) or `CapacityError` (no slot is free, the queue is full).
        """
        self._scheduler.enqueue(self._admission.sequence(request, token_mask))

    def cancel(self, request_id: str) -> None:
        """Forget a request and free its blocks at once. Idempotent; gives no further output."""
        sequence = self._scheduler.remove(request_id)
        if sequence is not None:
            self._forget(sequence.slot)

    def forget_tenant(self, tenant: str) -> None:
        """Erase what the n-gram memory holds of a tenant; its unfinished requests leave nothing there."""
        if self._ngrams is not None:
            self._ngrams.forget(tenant)
        for sequence in self._scheduler.sequences():
            if sequence.request.tenant == tenant:
                sequence.remembered = False

    def set_drafter(self, drafter: Drafter | None, version: str | None) -> None:
        """`set_drafters` with these heads alone; None leaves the n-gram memory, or plain decoding."""
        self.set_drafters(drafter, version)

    def set_drafters(
        self,
        champion: Drafter | None,
        version: str | None,
        second: Drafter | None = None,
        second_version: str | None = None,
        share: float = 0.0,
        salt: str | int = "",
        linger: bool = False,
    ) -> None:
        """Draft with these heads from the next step on: `second` for a share of the sequences that are
        admitted from now on, by a hash of `salt` and session or request id, the champion for the others.

        Nothing is flushed. A sequence keeps its drafter, and what that remembers of it, as long as this
        drafter (the same object, in either role) is one of the two; else the champion takes over and rebuilds
        its state from the feature ring, for some sequences after others (`Handover`). With `linger`, one
        drafter that leaves (that with most sequences) stays until it has finished those, and nothing is
        rebuilt. So weights of a drafter in use must not change. Adapters are the champion's; those of another
        base are dropped.
        ConfigError, and nothing is changed, for what can't draft in this engine.
        """
        former = self._arms
        arms = former.followed_by(
            champion, version, second, second_version, share, salt, self._staging.state_of
        )
        if linger:
            arms = arms.letting_finish(former, self._scheduler.sequences())
        self._runner.set_drafters(arms.drafters)
        self._arms = arms
        moved = [s for s in self._scheduler.sequences() if s.arm is not None and s.arm not in arms.present]
        for sequence in moved:
            assert sequence.arm is not None
            sequence.draft_with(arms.successor(sequence.arm))
        segments = {s.slot: s.request.segment for s in self._scheduler.sequences() if self._adaptable(s)}
        self.adapters.drafter_changed(champion, arms.champion.state, segments)
        known = former.champion.drafter
        if known is champion or (champion is not None and known is not None and champion.kind == known.kind):
            self._drafting.changed(arms, [sequence for sequence in moved if self._is_strange(sequence)])
        else:
            self._set_policy()

    def stage(self, drafter: Drafter) -> None:
        """Get ready what `set_drafters` needs of a new drafter: it then takes a fraction of a step.

        From any thread, beside running steps. Only the last one is kept. ConfigError as from `set_drafters`.
        """
        self._staging.stage(drafter, self._runner)

    def update_target(self, change: TargetChange) -> None:
        """Give the target other weights from a coming step on. ConfigError while an earlier change waits."""
        if self._change is not None:
            raise ConfigError("target", "is being updated already")
        self._change = change

    @property
    def drafter_version(self) -> str | None:
        """The champion's."""
        return self._arms.champion.version

    @property
    def kernel(self) -> str:
        """What runs the steps now: "native", "graphed" or "eager". May be asked from any thread."""
        return self._runners.kernel

    @property
    def threads(self) -> int:
        """CPU threads that steps run on now: compiled code's own, else torch's. From any thread."""
        return self._runners.threads or self._torch_threads

    def load(self) -> tuple[int, int]:
        """(running, waiting) requests."""
        return self._scheduler.running, self._scheduler.waiting

    def request_in(self, slot: int) -> GenerationRequest | None:
        """The request that runs in a slot, None when it is free."""
        sequence = self._scheduler.in_slot(slot)
        return None if sequence is None else sequence.request

    def check_integrity(self) -> None:
        """Assert that no block or slot is leaked, owned twice or out of reach, nor a shared one written."""
        self._scheduler.check_integrity()
        self._arms.check_integrity(self._scheduler.sequences())
        for slot in range(self.config.max_sequences):
            sequence = self._scheduler.in_slot(slot)
            if sequence is not None:
                self._table.check_integrity(sequence)
        if self._ngrams is not None:
            self._ngrams.check_integrity([s for s in range(self.config.max_sequences) if self.request_in(s)])

    def cache_stats(self) -> CacheStats:
        """What the KV cache did so far, as counts."""
        return self._scheduler.stats()

    def speculation_report(self) -> dict[str, Any]:
        """`calibration`: the champion's predicted and observed acceptance by depth, with a second drafter
        `second` the same of that; `buckets`: steps by nodes verified; `probes`: how many of them only found
        out; `yield`: tokens gained per token promised, or None."""
        return self._drafting.report()

    def speculation_counts(self) -> dict[str, Any]:
        """`version` of the champion, and integers as `Drafting.counts`. Reads only, so from any thread."""
        return {"version": self.drafter_version, **self._drafting.counts()}

    @torch.inference_mode()
    def step(self) -> list[StepOutput]:
        """Run one step and return what it gave each request that got tokens."""
        if self._runners.pending and self._runners.changed():
            self._change_runner()
        began = time.perf_counter()
        outputs = self._expire()
        if self._change is not None:
            outputs += self._change_target(self._change)
        plan = self._plan()
        if plan.empty:
            return outputs
        self.steps += 1
        if self.on_admission is not None:
            for admitted in plan.admitted:
                self.on_admission(admitted.request.request_id)
        timer = self.timer
        if timer is not None:
            timer.mark("schedule")
        forest = self._drafting.draft(plan, self._runner, self._feed.flush, timer)
        if timer is not None:
            timer.mark("policy")
        rows = self._runner.run(plan, forest)
        if timer is not None:
            timer.mark("forward")
        roots = plan.plain + [chunk.sequence for chunk in plan.chunks if chunk.last]
        self._choices.begin(rows, plan.speculating, roots, forest)
        commit = Commit(self._ring.window)
        walks = collect(plan, forest, rows, self._choices, self._runner, commit)
        if timer is not None:
            timer.mark("choose")
        self._feed.add(commit.moves, rows, self._drafting.ran_heads)
        if timer is not None:
            timer.mark("commit")
        for sequence in plan.sequences():
            self._scheduler.settle(sequence)
            if sequence.finish_reason is not None:
                self._scheduler.remove(sequence.request.request_id)
                self._forget(sequence.slot)
                if self._ngrams is not None and sequence.remembered:
                    self._ngrams.remember(sequence)
        self._drafting.observe(walks, len(plan.plain), time.perf_counter() - began, not plan.chunks)
        if timer is not None:
            timer.mark("deliver")
        return outputs + commit.outputs if outputs else commit.outputs

    def _expire(self) -> list[StepOutput]:
        """Give up what is past its deadline."""
        outputs = []
        for sequence in self._scheduler.expire():
            if sequence.slot >= 0:
                self._forget(sequence.slot)
            outputs.append(sequence.abort("deadline exceeded"))
        return outputs

    def _plan(self) -> StepPlan:
        """The scheduler's plan, with block tables and feature ring brought up to it."""
        leaving = self._arms.leaving
        if leaving is not None and all(s.arm is not leaving for s in self._scheduler.sequences()):
            self._arms = replace(self._arms, leaving=None)
            self._runner.set_drafters(self._arms.drafters)
            self._drafting.changed(self._arms)
        able = self._arms.champion.drafter is not None or self._ngrams is not None
        nodes = self.config.tree_nodes if able else 0
        plan = self._scheduler.plan(nodes, self._drafting.policy.expected_nodes)
        for slot in plan.vacated:
            self._forget(slot)
        for sequence, start in plan.grown:
            self._table.extend(sequence, start)
        for sequence in plan.admitted:
            self._ring.rebase(sequence.slot, sequence.cached)
            if sequence.arm is None and sequence.request.speculate:
                sequence.draft_with(self._arms.pick(sequence.request))
            if self._adaptable(sequence):
                self.adapters.follow(sequence.slot, sequence.request.segment)
            drafted = sequence.arm is not None and sequence.arm.drafter is not None
            sequence.followed = drafted and self._drafting.policy.follows()
        return plan

    def _is_strange(self, sequence: Sequence) -> bool:
        """Whether its drafter has yet to make what it must know of it."""
        state = None if sequence.arm is None else sequence.arm.state
        return state is not None and sequence.decoding and not state.knows(self._ring, sequence.slot)

    def _adaptable(self, sequence: Sequence) -> bool:
        """Whether a sequence runs and drafts with the champion."""
        return sequence.slot >= 0 and sequence.arm is self._arms.champion

    def _forget(self, slot: int) -> None:
        """Clear what drafter and n-gram memory knew about a slot's sequence."""
        self._feed.forget(slot)
        self._ring.reset(slot)
        self.adapters.forget(slot)
        if self._ngrams is not None:
            self._ngrams.end(slot)
        for _, state in self._arms.drafters:
            state.invalidate(slot)

    def _change_target(self, change: TargetChange) -> list[StepOutput]:
        """Make the change if it is time. Nothing that the old weights computed is used again."""
        with torch.inference_mode(False), torch.no_grad():
            outputs = change.write(self._scheduler, self._forget)
            if outputs is None:
                return []
            self._change = None
            self._pool.forget_prefixes()
            if self._ngrams is not None:
                self._ngrams = NgramDrafts()
            self._arms = Arms.none()
            self._staging = Staging(self.config, self.max_context)
            self.adapters.drafter_changed(None, None, {})
            if self._runners.kernel != "graphed":  # graphs read the new weights where the old ones were
                self._runners = RunnerChoice(self.target, self.config)
                self._runner = self._runners.make(self._memory)
            self._runner.set_drafters([])
            self._feed = RingFeed(self._runner, self._ring)
            change.installed()
            if self._arms.champion.drafter is None:
                self._set_policy()
            self._scheduler.let_through()
            change.done.set_result(len(outputs))
        return outputs

    def _change_runner(self) -> None:
        """The next step runs on what is best now. Cache, ring and outputs stay as they are."""
        self._feed.flush()
        self._runner = self._feed.runner = self._runners.make(self._memory)
        self._runner.set_drafters(self._arms.drafters)
        if self._runners.kernel == "native":
            self.target.forget_prepared()
        self._set_policy()

    def _set_policy(self) -> None:
        """A policy for the champion and the runner at hand; both fix what a step costs."""
        profile = measured_profile(
            self._runners, self.target, self._fingerprint, self._arms, self.config, self.threads
        )
        if profile is not None:
            self._scheduler.pace(profile)
        self._drafting = make_drafting(
            profile,
            self._runners.padded,
            self._arms,
            self._ngrams,
            self.config,
            lambda: time.perf_counter(),
        )
