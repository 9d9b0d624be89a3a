"""The decoding engine: one target, one device, many sequences.

Shapes: S sequences, N nodes of a tree, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from online_draft.core import GenerationRequest, StepOutput
from online_draft.decoding.batch import SlotTable, StepBatch, build_batch
from online_draft.decoding.blocks import BlockAllocator
from online_draft.decoding.choices import TargetChoices
from online_draft.decoding.commit import Commit
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.scheduler import Scheduler, StepPlan
from online_draft.decoding.sequence import Sequence
from online_draft.decoding.tree import DraftTrees, build_trees
from online_draft.decoding.verification import walk
from online_draft.errors import ConfigError, RequestError
from online_draft.models.drafter import Drafter, DraftState
from online_draft.models.kv import KVCache
from online_draft.models.loading import LoadedTarget
from online_draft.models.ring import FeatureRing


class Engine:
    """Continuous batching with speculative decoding whose output is that of the target alone.

    Call `add` and then `step` until `has_work` is False. Not thread-safe: one thread owns an engine, and
    everything (swaps too) happens between two steps.
    """

    def __init__(self, loaded: LoadedTarget, config: EngineConfig = EngineConfig()) -> None:
        self.config = config
        self.target = loaded.target
        self.tokenizer = loaded.tokenizer
        limit = loaded.config.max_position_embeddings
        if config.max_context is not None and config.max_context > limit:
            raise ConfigError(
                "engine.max_context", f"the target's context is {limit}, got {config.max_context}"
            )
        self.max_context = config.max_context or limit
        self._max_position = limit - 1
        self._eos = frozenset(loaded.config.eos_token_ids)
        device, dtype = self.target.device, self.target.dtype
        self._allocator = BlockAllocator(config.kv_tokens + config.block_size, config.block_size)
        self._kv = KVCache(loaded.config, self._allocator.num_blocks * config.block_size, dtype, device)
        self._table = SlotTable(config.max_sequences, self.max_context + config.tree_nodes, device)
        self._scheduler = Scheduler(config, self._allocator)
        self._ring = FeatureRing(
            config.max_sequences, config.feature_window, loaded.config.hidden_size, dtype, device
        )
        self._choices = TargetChoices(loaded.config.vocab_size, device)
        self._drafter: Drafter | None = None
        self._draft_state: DraftState | None = None
        self.drafter_version: str | None = None
        self.steps = 0

    @property
    def has_work(self) -> bool:
        """Whether `step` would do something."""
        return self._scheduler.waiting + self._scheduler.running > 0

    def add(self, request: GenerationRequest) -> None:
        """Queue a request. Raises `RequestError` (doesn't fit) or `CapacityError` (queue full)."""
        if not request.prompt_ids:
            raise RequestError("the prompt is empty", param="prompt")
        sequence = Sequence(request, self.tokenizer, self._eos)
        if len(request.prompt_ids) >= self.max_context or sequence.capacity > self.max_context:
            raise RequestError(
                f"prompt ({len(request.prompt_ids)} tokens) and max_tokens ({request.sampling.max_tokens}) "
                f"exceed the context of {self.max_context} tokens",
                param="max_tokens" if len(request.prompt_ids) < self.max_context else "prompt",
                code="context_length_exceeded",
            )
        needed = self._allocator.blocks_for(sequence.capacity + self.config.tree_nodes)
        if needed > self._allocator.usable_blocks:
            raise RequestError(
                f"the request needs {needed} KV blocks, the cache has {self._allocator.usable_blocks}",
                param="max_tokens",
            )
        if sequence.remaining <= 0:
            raise RequestError("max_tokens: nothing is left to generate", param="max_tokens")
        if request.request_id in self._scheduler:
            raise RequestError(f"request id {request.request_id!r} is running already", param="request_id")
        self._scheduler.enqueue(sequence)

    def cancel(self, request_id: str) -> None:
        """Forget a request and free its blocks at once. Idempotent; gives no further output."""
        sequence = self._scheduler.remove(request_id)
        if sequence is not None:
            self._forget(sequence)

    def set_drafter(self, drafter: Drafter | None, version: str | None) -> None:
        """Draft with these heads from the next step on; None decodes plainly.

        Nothing is flushed: running sequences go on, their drafter state is rebuilt from the feature ring.
        """
        if drafter is not None and drafter.config.window > self.config.feature_window:
            raise ConfigError(
                "engine.feature_window",
                f"must be at least the drafter's window of {drafter.config.window} rows",
            )
        self._drafter = drafter
        self._draft_state = None if drafter is None else drafter.new_state(self.config.max_sequences)
        self.drafter_version = version

    def load(self) -> tuple[int, int]:
        """(running, waiting) requests."""
        return self._scheduler.running, self._scheduler.waiting

    def check_integrity(self) -> None:
        """Assert that no block or slot is leaked or owned twice."""
        self._scheduler.check_integrity()

    @torch.inference_mode()
    def step(self) -> list[StepOutput]:
        """Run one step and return what it gave each request that got tokens."""
        for sequence in self._scheduler.admit():
            self._table.assign(sequence)
        plan = self._scheduler.plan()
        if plan.empty:
            return []
        self.steps += 1
        if self._drafter is None:
            plan.plain = plan.speculating + plan.plain
            plan.speculating = []
        trees = self._draft(plan.speculating)
        batch = build_batch(plan, trees, self._table, self._max_position)
        hidden_NF = self.target(batch.rows, self._kv)
        logits_MV = self.target.logits(hidden_NF if batch.logit_rows is None else hidden_NF[batch.logit_rows])
        roots = plan.plain + [chunk.sequence for chunk in plan.chunks if chunk.last]
        self._choices.begin(logits_MV, plan.speculating, roots, None if trees is None else trees.depth_SN)
        commit = self._commit(plan, trees, batch, hidden_NF)
        commit.apply(hidden_NF, self._kv, self._ring)
        for sequence in (*plan.speculating, *plan.plain, *(chunk.sequence for chunk in plan.chunks)):
            if sequence.finish_reason is not None:
                self._scheduler.remove(sequence.request.request_id)
                self._forget(sequence)
        return commit.outputs

    def _draft(self, sequences: list[Sequence]) -> DraftTrees | None:
        """Trees for the sequences, None if there are none."""
        if not sequences or self._drafter is None or self._draft_state is None:
            return None
        draft = self._drafter.draft(self._draft_state, self._ring, [s.slot for s in sequences])
        roots_S = torch.tensor([s.tokens[-1] for s in sequences], device=self.target.device)
        return build_trees(draft, roots_S, self.config.tree_nodes, self.config.tree_width)

    def _commit(
        self, plan: StepPlan, trees: DraftTrees | None, batch: StepBatch, hidden_NF: Tensor
    ) -> Commit:
        """Walk the trees and collect what every sequence gained."""
        commit = Commit(self.drafter_version)
        start = 0
        if trees is not None:
            tokens, parents = trees.token_SN.tolist(), trees.parent_SN.tolist()
            valid = trees.valid_SN.tolist()
            deepest = trees.depth_SN.amax(1).tolist()
            for index, sequence in enumerate(plan.speculating):
                found = walk(self._choices.tree_row(index), tokens[index], parents[index], valid[index])
                commit.tree(sequence, found, start, trees.nodes, deepest[index])
                start += trees.nodes + 1
        root = 0
        for sequence in plan.plain:
            commit.root(sequence, self._choices.root(root), start + root)
            root += 1
        for chunk, first in zip(plan.chunks, batch.chunk_starts, strict=True):
            known = chunk.count - 1 if chunk.last else chunk.count
            if chunk.last:
                row, token = first + known, self._choices.root(root)
                root += 1
            if known:
                commit.prompt(chunk.sequence, first, known)
            if chunk.last:
                commit.root(chunk.sequence, token, row)
        return commit

    def _forget(self, sequence: Sequence) -> None:
        """Clear what the drafter knew about a sequence's slot."""
        self._ring.reset(sequence.slot)
        if self._draft_state is not None:
            self._draft_state.invalidate(sequence.slot)
