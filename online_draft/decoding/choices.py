"""The target's choices at the rows of one step.

Shapes: M rows with logits, P noise rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from online_draft.core import TokenLogprobs
from online_draft.decoding.drafting.forest import Forest
from online_draft.decoding.logprobs import token_logprobs
from online_draft.decoding.noise import gumbel
from online_draft.decoding.runners.base import Rows
from online_draft.decoding.sampling import choose, choose_rows, score_type
from online_draft.decoding.sequence import Sequence
from online_draft.decoding.verification import Walk


class TargetChoices:
    """Chooses tokens for all rows of a step at once, and row by row along the walk for lazy sequences.

    A runner that can sample a single row cheaply (`Rows.sample`) is asked along the walk instead.
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._token_ids_V = torch.arange(vocab_size, device=device)
        self._chosen: list[int] = []
        self._sequences: list[Sequence] = []
        self._row_start: list[int] = []
        self._trees = 0

    def begin(self, rows: Rows, trees: list[Sequence], roots: list[Sequence], forest: Forest | None) -> None:
        """Take a step's logits. One synchronisation with the device at most."""
        self._rows = rows
        self._sequences = trees + roots
        self._trees = len(trees)
        self._row_start = [*rows.tree_starts, *range(rows.plain_start, rows.plain_start + len(roots))]
        self._chosen = [] if rows.best_M is None else rows.best_M
        eager = [s for s in self._sequences if not s.lazy]
        if not eager or (rows.best_M is not None and rows.sample is not None):
            return
        if all(s.sampling.temperature == 0 for s in eager):
            if rows.best_M is None:
                greedy_M = rows.greedy_M
                if greedy_M is None:
                    greedy_M = choose_rows(rows.logits_MV, None, None)
                self._chosen = greedy_M.tolist()
            return
        self._chosen = self._sample_all(forest).tolist()

    def tree_row(self, index: int) -> Callable[[int, int], int]:
        """For tree `index`: a function of (row of the tree, depth) that gives the target's token.

        Ask for a root once and then for the rows along one path, each time below the token given last: a lazy
        sequence's processors take in every token as it is chosen.
        """
        sequence, start, rows = self._sequences[index], self._row_start[index], self._rows
        sampling, processors = sequence.sampling, sequence.processors
        if not sequence.lazy:
            sample = rows.sample
            if sample is not None and sampling.temperature > 0:
                return lambda row, depth: sample(start + row, sampling.temperature, sequence.key(depth))
            chosen = self._chosen
            return lambda row, depth: chosen[start + row]
        if processors is not None:
            processors.catch_up(sequence.tokens)
        dtype = score_type(rows.logits_MV.dtype)

        def choose_row(row: int, depth: int) -> int:
            noise_V = None
            if sampling.temperature > 0:
                noise_V = gumbel([sequence.key(depth)], self._token_ids_V)[0].to(dtype)
            token = choose(rows.logits_MV[start + row], sampling, noise_V, processors)
            if processors is not None:
                processors.push(token)
            return token

        return choose_row

    def root(self, index: int) -> int:
        """The target's token behind root `index`. Ask once."""
        return self.tree_row(self._trees + index)(0, 0)

    def tree_logprobs(self, index: int, found: Walk) -> tuple[TokenLogprobs, ...] | None:
        """Of the tokens of tree `index`'s walk; None when the request doesn't want them."""
        top = self._sequences[index].sampling.logprobs
        if top is None:
            return None
        start = self._row_start[index]
        rows = [start, *(start + node + 1 for node in found.nodes)]
        return token_logprobs(self._rows.logits_MV[rows], found.tokens, top)

    def root_logprobs(self, index: int, token: int) -> tuple[TokenLogprobs, ...] | None:
        """Of the token behind root `index`; None when the request doesn't want them."""
        return self.tree_logprobs(self._trees + index, Walk([token], []))

    def _sample_all(self, forest: Forest | None) -> Tensor:
        """The choice at every row, noise drawn once per sequence and depth. Lazy rows don't count."""
        logits_MV = self._rows.logits_MV
        dtype = score_type(logits_MV.dtype)
        keys: list[int] = [0]
        noise_of = [0] * logits_MV.shape[0]
        temperature = [1.0] * logits_MV.shape[0]
        depths = [[0, *tree_depths] for _, _, tree_depths in forest.trees()] if forest is not None else []
        for index, (sequence, start) in enumerate(zip(self._sequences, self._row_start, strict=True)):
            if sequence.lazy or sequence.sampling.temperature == 0:
                continue
            own = depths[index] if index < self._trees else [0]
            first = len(keys)
            keys += [sequence.key(depth) for depth in range(max(own) + 1)]
            for row, depth in enumerate(own, start):
                noise_of[row], temperature[row] = first + depth, sequence.sampling.temperature
        noise_PV = gumbel(keys, self._token_ids_V).to(dtype)
        noise_PV[0] = 0.0
        temperature_M1 = torch.tensor(temperature, dtype=dtype, device=logits_MV.device).unsqueeze(1)
        return choose_rows(logits_MV, temperature_M1, noise_PV[noise_of])
