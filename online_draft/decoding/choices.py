"""The target's choices at the rows of one step.

Shapes: M rows with logits, P noise rows, V vocabulary, S sequences with trees, N nodes, R = N + 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from online_draft.decoding.noise import gumbel
from online_draft.decoding.sampling import choose, choose_rows, has_filter
from online_draft.decoding.sequence import Sequence


class TargetChoices:
    """Chooses tokens for all rows of a step at once, and row by row along the walk where filters apply.

    Logit rows are laid out as `batch.py` does: R rows for each tree, then one for each root.
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._token_ids_V = torch.arange(vocab_size, device=device)
        self._logits_MV = torch.empty(0)
        self._noise_PV: Tensor | None = None
        self._chosen: list[int] = []
        self._sequences: list[Sequence] = []
        self._noise_start: list[int] = []
        self._row_start: list[int] = []
        self._trees = 0

    def begin(
        self, logits_MV: Tensor, trees: list[Sequence], roots: list[Sequence], depth_SN: Tensor | None
    ) -> None:
        """Take a step's logits. One synchronisation with the device."""
        self._logits_MV = logits_MV
        self._sequences = trees + roots
        self._trees = len(trees)
        rows = 1 if depth_SN is None else depth_SN.shape[1] + 1
        tree_rows = len(trees) * rows
        self._row_start = [*range(0, tree_rows, rows), *range(tree_rows, tree_rows + len(roots))]
        if all(s.sampling.temperature == 0 for s in self._sequences):
            self._noise_PV = None
            self._chosen = choose_rows(logits_MV, None, None).tolist()
            return
        self._draw_noise(logits_MV.dtype, 0 if depth_SN is None else int(depth_SN.max()))
        if all(has_filter(s.sampling) for s in self._sequences):
            return
        noise_M, temperatures = self._per_row(rows, depth_SN, logits_MV.device)
        assert self._noise_PV is not None
        temperature_M1 = torch.tensor(temperatures, dtype=logits_MV.dtype, device=logits_MV.device).unsqueeze(
            1
        )
        self._chosen = choose_rows(logits_MV, temperature_M1, self._noise_PV[noise_M]).tolist()

    def tree_row(self, index: int) -> Callable[[int, int], int]:
        """For tree `index`: a function of (row of the tree, depth) that gives the target's token."""
        sequence = self._sequences[index]
        start = self._row_start[index]
        if not has_filter(sequence.sampling):
            chosen = self._chosen
            return lambda row, depth: chosen[start + row]
        noise_PV, noise_start = self._noise_PV, self._noise_start[index]
        assert noise_PV is not None
        return lambda row, depth: choose(
            self._logits_MV[start + row], sequence.sampling, noise_PV[noise_start + depth]
        )

    def root(self, index: int) -> int:
        """The target's token behind root `index`."""
        return self.tree_row(self._trees + index)(0, 0)

    def _draw_noise(self, dtype: torch.dtype, max_depth: int) -> None:
        """Noise of every depth of every sequence; zero for greedy ones."""
        keys: list[int] = []
        self._noise_start = []
        greedy: list[int] = []
        for index, sequence in enumerate(self._sequences):
            self._noise_start.append(len(keys))
            depths = range(max_depth + 1 if index < self._trees else 1)
            if sequence.sampling.temperature == 0:
                greedy.extend(range(len(keys), len(keys) + len(depths)))
            keys.extend(sequence.key(depth) for depth in depths)
        self._noise_PV = gumbel(keys, self._token_ids_V).to(dtype)
        if greedy:
            self._noise_PV[greedy] = 0.0

    def _per_row(
        self, rows: int, depth_SN: Tensor | None, device: torch.device
    ) -> tuple[Tensor, list[float]]:
        """Index into the noise [M] and temperature of each row of logits."""
        temperatures = [s.sampling.temperature or 1.0 for s in self._sequences]
        starts = torch.tensor(self._noise_start, device=device)
        per_row = [t for t in temperatures[: self._trees] for _ in range(rows)] + temperatures[self._trees :]
        if depth_SN is None:
            return starts, per_row
        depth_SR = torch.nn.functional.pad(depth_SN, (1, 0))
        tree_M = (starts[: self._trees].unsqueeze(1) + depth_SR).flatten()
        return torch.cat((tree_M, starts[self._trees :])), per_row
