"""Heads and the n-gram memory in one tree."""

from __future__ import annotations

import random

import numpy as np
import pytest

from online_draft.decoding.drafting.candidates import Candidates, drafted, merged, proposed
from online_draft.decoding.drafting.forest import DraftedTrees
from online_draft.decoding.drafting.ngrams import Proposal
from online_draft.decoding.drafting.selection import keep, rank
from online_draft.decoding.policy.calibration import Calibration
from online_draft.decoding.values import path_values
from online_draft.models.ngram import NgramTree

Paths = dict[tuple[int, ...], float]


def random_paths(rng: random.Random, nodes: int, letters: int, deepest: int) -> Paths:
    """Distinct paths with falling values; parents first."""
    paths: Paths = {}
    while len(paths) < nodes:
        above = rng.choice([(), *paths])
        path = (*above, rng.randrange(letters))
        if len(path) <= deepest:
            paths.setdefault(path, rng.uniform(0.1, 0.99) * paths.get(above, 1.0))
    return paths


def columns(paths: Paths) -> tuple[list[int], list[int], list[int], list[float]]:
    place = {path: index for index, path in enumerate(paths)}
    parents = [place.get(path[:-1], -1) for path in paths]
    return [path[-1] for path in paths], parents, [len(path) for path in paths], list(paths.values())


def proposal(paths: Paths) -> Proposal:
    tokens, parents, depths, values = columns(paths)
    return Proposal(NgramTree(tokens, parents, depths, [0] * len(tokens)), values)


def paths_of(candidates: Candidates, row: int) -> Paths:
    """Path -> value of a tree's nodes; asserts that no two are alike and parents come first."""
    found: Paths = {}
    whole: list[tuple[int, ...]] = []
    for token, parent, depth, value in zip(
        candidates.tokens[row],
        candidates.parents[row],
        candidates.depths[row],
        candidates.values[row],
        strict=True,
    ):
        assert parent < len(whole)
        whole.append((*(whole[parent] if parent >= 0 else ()), token))
        if value > 0:
            assert len(whole[-1]) == depth
            assert whole[-1] not in found
            found[whole[-1]] = value
    return found


@pytest.mark.parametrize("seed", range(20))
def test_the_union_has_every_path_once_with_the_larger_value(seed: int) -> None:
    rng = random.Random(seed)
    heads = [random_paths(rng, 9, 3, 4) for _ in range(3)]
    memory = {0: random_paths(rng, 7, 3, 8), 2: random_paths(rng, 12, 3, 8), 3: random_paths(rng, 5, 3, 8)}
    parts = [columns(paths) for paths in heads]
    trees = Candidates(*([part[field] for part in parts] for field in range(4)), heads=9)
    # Sequences 0, 1 and 2 have heads; 3 has none.
    union = merged(trees, [0, 1, 2], {row: proposal(paths) for row, paths in memory.items()}, 4, 99)
    for row in range(4):
        expected: Paths = dict(heads[row]) if row < 3 else {}
        for path, value in memory.get(row, {}).items():
            expected[path] = max(value, expected.get(path, 0.0))
        assert paths_of(union, row) == expected
        if row < 3:
            assert list(zip(union.tokens[row][:9], union.parents[row][:9], strict=True)) == list(
                zip(trees.tokens[row], trees.parents[row], strict=True)
            )
    assert trees.values == [part[3] for part in parts], "what the heads drafted stays as it was"


def test_the_best_nodes_stay_and_remain_trees() -> None:
    rng = random.Random(3)
    heads = random_paths(rng, 8, 4, 4)
    trees = Candidates(*([part] for part in columns(heads)), heads=8)
    union = merged(trees, [0], {0: proposal(random_paths(rng, 12, 4, 9))}, 1, 8)
    whole = merged(trees, [0], {0: proposal(random_paths(random.Random(0), 1, 4, 1))}, 1, 99)
    assert len(paths_of(union, 0)) == 8
    assert len(paths_of(whole, 0)) in (8, 9)
    for path in paths_of(union, 0):
        assert len(path) == 1 or path[:-1] in paths_of(union, 0)


def test_kept_nodes_know_whose_they_are() -> None:
    heads: Paths = {(1,): 0.9, (1, 2): 0.5, (3,): 0.05}
    memory: Paths = {(1,): 0.8, (1, 2): 0.7, (1, 2, 9): 0.6, (4,): 0.01}
    trees = Candidates(*([part] for part in columns(heads)), heads=3)
    union = merged(trees, [0], {0: proposal(memory)}, 1, 16)
    order, worth = rank(union.values)
    assert worth == pytest.approx([0, 0.9, 1.6, 2.2, 2.25, 2.26])
    forest = union.keep(keep(order, 3, union.parents))
    assert (forest.token_K, forest.parent_K, forest.depth_K) == ([1, 2, 9], [-1, 0, 1], [1, 2, 3])
    assert forest.ngram == [False, False, True]
    assert union.keep(keep(order, 2, union.parents)).ngram is None
    alone = proposed({5: proposal(memory)})
    assert alone.keep(keep(rank(alone.values)[0], 4, alone.parents)).ngram == [True] * 4


@pytest.mark.parametrize("ranked", [None, [True, False]])
def test_few_nodes_are_worth_what_many_are(ranked: list[bool] | None) -> None:
    """Small trees are gone through in Python, large ones by numpy: with the same result."""
    rng = random.Random(1)
    calibration = Calibration(4)
    for nodes in (6, 40):
        parts = []
        for _ in range(2):
            tokens, parents, depths, values = columns(random_paths(rng, nodes, 9, 4))
            parts.append((tokens, parents, depths, np.log(values)))
        token, parent, depth, logprob = (np.array(field) for field in zip(*parts, strict=True))
        logprob[1, -1] = -np.inf
        ranked_S = None if ranked is None else np.array(ranked)
        trees = DraftedTrees(token, parent, depth, logprob, ranked_S=ranked_S)
        expected = calibration.values(logprob, parent, depth, ranked_S)
        np.testing.assert_allclose(path_values(calibration, trees), expected, atol=0.02)
        assert path_values(calibration, trees)[1][-1] == 0.0
        assert drafted(trees, path_values(calibration, trees)).heads == nodes
