"""Calibration of the n-gram memory: what its matches are worth."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from online_draft.decoding.policy.ngram_calibration import NgramCalibration
from online_draft.models.ngram import REQUEST, TENANT, NgramMemory, NgramTree
from online_draft.models.ngram.tree import MATCH_BIT, SOURCE_BIT, SUPPORT_BIT, WHOLE

PARENTS = [-1, -1, 0, 0, 1, 2]
DEPTHS = [1, 1, 2, 2, 2, 3]
KINDS = [
    (2, REQUEST, 1, WHOLE),
    (2, TENANT, 3, WHOLE),
    (7, REQUEST, 4, WHOLE),
    (1, TENANT, 1, 10),
    (1, REQUEST, 2, 30),
    (3, TENANT, 1, 40),
]
"""Match, source, support and share of nodes; each is accepted with a probability of its own."""


def tree_of(kinds: list[tuple[int, int, int, int]]) -> NgramTree:
    evidence = [
        match << MATCH_BIT | source << SOURCE_BIT | support << SUPPORT_BIT | share
        for match, source, support, share in kinds
    ]
    return NgramTree([100 + node for node in range(6)], PARENTS, DEPTHS, evidence)


def step(rng: Random, truth: dict[tuple[int, int, int, int], float]) -> tuple[NgramTree, list[int]]:
    """A tree with nodes of random kinds, and a walk through it that obeys the truth."""
    kinds = [rng.choice(KINDS) for _ in range(6)]
    tokens: list[int] = []
    current = -1
    while True:
        point = rng.random()
        for child in (node for node in range(6) if PARENTS[node] == current):
            point -= truth[kinds[child]]
            if point < 0:
                break
        else:
            return tree_of(kinds), [*tokens, 7]
        tokens.append(100 + child)
        current = child


def assert_falling(values: list[float], parents: list[int]) -> None:
    for node, parent in enumerate(parents):
        assert 0 < values[node] < (values[parent] if parent >= 0 else 1.0)


def test_a_tree_says_what_it_was_made_of() -> None:
    tree = tree_of(KINDS)
    assert tree.match_M == [match for match, *_ in KINDS]
    assert tree.source_M == [source for _, source, *_ in KINDS]
    assert tree.support_M == [support for _, _, support, _ in KINDS]
    assert tree.share_M == [share / WHOLE for *_, share in KINDS]


def test_long_and_unanimous_matches_are_trusted_more_before_anything_was_seen() -> None:
    longer = [(match, REQUEST, 1, WHOLE) for match in (1, 2, 3, 4, 6, 12)]
    assert (np.diff(NgramCalibration().conditional(tree_of(longer))) > 0).all()
    agreed = [(2, TENANT, 1, share) for share in (5, 20, 33, 45, 60)] + [(2, TENANT, 2, WHOLE)]
    assert (np.diff(NgramCalibration().conditional(tree_of(agreed))) > 0).all()


def test_converges_on_the_true_acceptance_of_each_kind() -> None:
    rng = Random(1)
    truth = dict(zip(KINDS, (0.35, 0.1, 0.45, 0.2, 0.05, 0.3), strict=True))
    calibration = NgramCalibration()
    for _ in range(4000):
        calibration.observe(*step(rng, truth))
    shallow = calibration.conditional(tree_of(KINDS))[:2]
    np.testing.assert_allclose(shallow, [truth[kind] for kind in KINDS[:2]], atol=0.06)
    for kind in KINDS:
        given = calibration.conditional(tree_of([kind] * 6))
        np.testing.assert_allclose([given[0], given[2]], truth[kind], atol=0.08)
    report = calibration.report()
    assert report["trees"] == 4000
    assert report["error"] < 0.02
    for source in report["sources"].values():
        assert source["calibrated"] == pytest.approx(source["observed"], abs=0.03)


def test_follows_traffic_that_changes() -> None:
    rng = Random(2)
    calibration = NgramCalibration()
    for _ in range(1500):
        calibration.observe(*step(rng, dict.fromkeys(KINDS, 0.4)))
    for _ in range(4000):
        calibration.observe(*step(rng, dict.fromkeys(KINDS, 0.1)))
    np.testing.assert_allclose(calibration.conditional(tree_of(KINDS))[:2], 0.1, atol=0.07)


def test_values_are_products_along_the_path_and_fall() -> None:
    rng = Random(4)
    calibration = NgramCalibration()
    for _ in range(200):
        tree, tokens = step(rng, dict.fromkeys(KINDS, 0.49))
        calibration.observe(tree, tokens)
        values, steps = calibration.values(tree), calibration.conditional(tree)
        assert_falling(values, PARENTS)
        for node, parent in enumerate(PARENTS):
            above = values[parent] if parent >= 0 else 1.0
            assert values[node] == pytest.approx(steps[node] * above)


def test_a_node_that_never_fails_is_still_not_certain() -> None:
    calibration = NgramCalibration()
    tree = tree_of([(16, REQUEST, 6, WHOLE)] * 6)
    for _ in range(2000):
        calibration.observe(tree, [100, 102, 105, 7])
    assert_falling(calibration.values(tree), PARENTS)
    assert calibration.values(tree)[5] > 0.9 * calibration.values(tree)[2]


def test_nodes_off_the_walk_and_behind_its_end_teach_nothing() -> None:
    calibration = NgramCalibration()
    tree = tree_of(KINDS)
    calibration.observe(tree, [101])
    assert sum(source["nodes"] for source in calibration.report()["sources"].values()) == 2
    calibration.observe(tree, [100, 7])
    assert sum(source["nodes"] for source in calibration.report()["sources"].values()) == 6


def test_an_empty_tree_is_worth_nothing_and_teaches_nothing() -> None:
    calibration = NgramCalibration()
    tree = NgramTree([], [], [], [])
    assert calibration.values(tree) == []
    calibration.observe(tree, [3])
    assert calibration.report() == {"trees": 1, "sources": {}, "error": 0.0}


def test_learns_from_the_memorys_own_trees() -> None:
    rng = Random(5)
    memory, calibration = NgramMemory(), NgramCalibration()
    phrases = [[rng.randrange(40) for _ in range(12)] for _ in range(4)]
    gained = []
    for number in range(30):
        output = [token for _ in range(6) for token in rng.choice(phrases)]
        memory.open(number, "a", [50])
        while output:
            tree = memory.propose(number, 16)
            values = calibration.values(tree)
            assert_falling(values, tree.parent_M)
            taken, current = 0, -1
            for node, parent in enumerate(tree.parent_M):
                if parent == current and taken < len(output) and tree.token_M[node] == output[taken]:
                    taken, current = taken + 1, node
            tokens, output = output[: taken + 1], output[taken + 1 :]
            calibration.observe(tree, tokens)
            memory.extend(number, tokens)
            gained.append(len(tokens))
        memory.close(number, keep=True)
    assert np.mean(gained[-100:]) > 5
    report = calibration.report()
    assert report["error"] < 0.05
    assert set(report["sources"]) == {"request", "tenant"}
