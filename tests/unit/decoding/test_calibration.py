"""Calibration: what heads say, corrected to what happens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from online_draft.decoding.policy.calibration import Calibration

DEPTHS = 3
NODES = 8
PARENTS = np.array([-1, -1, 0, 0, 1, 2, 2, 4])
DEPTH = np.array([1, 1, 2, 2, 2, 3, 3, 3])


class KnownDrafter:
    """Trees of one shape; a node is taken with its true probability, of which the drafter says `says(p)`."""

    def __init__(self, seed: int, says: Callable[[np.ndarray], np.ndarray]) -> None:
        self.rng = np.random.default_rng(seed)
        self.says = says
        self.seen: list[tuple[int, float, bool]] = []
        """(depth, said probability, taken) of every node below a walk."""

    def step(self, calibration: Calibration, sequences: int = 1) -> None:
        truth = self.rng.uniform(0.02, 0.48, (sequences, NODES))
        said = np.log(self.says(truth))
        logprob = said.copy()
        for node in range(NODES):
            if PARENTS[node] >= 0:
                logprob[:, node] += logprob[:, PARENTS[node]]
        token = np.arange(NODES)[None].repeat(sequences, 0) + 100
        walks = []
        for row in range(sequences):
            tokens: list[int] = []
            nodes: list[int] = []
            current = -1
            while True:
                children = np.flatnonzero(current == PARENTS)
                bounds = truth[row, children].cumsum()
                place = int(np.searchsorted(bounds, self.rng.random()))
                taken = int(children[place]) if place < len(children) else -1
                for child in children:
                    self.seen.append((int(DEPTH[child]), float(np.exp(said[row, child])), child == taken))
                tokens.append(taken + 100 if taken >= 0 else 7)
                if taken < 0:
                    break
                nodes.append(taken)
                current = taken
            walks.append((tokens, nodes))
        shape = sequences, NODES
        calibration.observe(
            token, np.broadcast_to(PARENTS, shape), np.broadcast_to(DEPTH, shape), logprob, walks
        )


def grid(calibration: Calibration, depth: int, p: np.ndarray) -> np.ndarray:
    return calibration.apply(np.full(len(p), depth), np.log(p))


def test_before_anything_was_seen_the_heads_are_believed() -> None:
    p = np.linspace(0.01, 0.99, 50)
    for depth in (1, 2, 3):
        np.testing.assert_allclose(grid(Calibration(DEPTHS), depth, p), p, rtol=0.03, atol=2e-3)


@pytest.mark.parametrize("sequences", [1, 4])
@pytest.mark.parametrize(
    "says", [lambda p: p**0.5, lambda p: p**2, lambda p: p], ids=["boastful", "modest", "honest"]
)
def test_converges_on_a_drafter_of_known_accuracy(
    says: Callable[[np.ndarray], np.ndarray], sequences: int
) -> None:
    drafter, calibration = KnownDrafter(1, says), Calibration(DEPTHS)
    for _ in range(4000 // sequences):
        drafter.step(calibration, sequences)
    truth = np.linspace(0.06, 0.44, 10)
    for depth in (1, 2):
        np.testing.assert_allclose(grid(calibration, depth, says(truth)), truth, atol=0.06)
    report = calibration.report()
    first = report["depths"]["1"]
    assert first["steps"] == 4000 // sequences * sequences
    assert abs(first["calibrated"] - first["observed"]) < 0.03
    assert report["error"] < 0.08
    if says(np.array([0.25]))[0] != 0.25:
        assert report["raw_error"] > 3 * report["error"]


def test_a_few_hundred_steps_are_enough_to_be_useful() -> None:
    drafter, calibration = KnownDrafter(2, lambda p: p**0.5), Calibration(DEPTHS)
    for _ in range(200):
        drafter.step(calibration)
    truth = np.linspace(0.1, 0.4, 7)
    assert np.abs(grid(calibration, 1, truth**0.5) - truth).mean() < 0.06


def test_follows_a_drafter_that_changes() -> None:
    drafter, calibration = KnownDrafter(3, lambda p: p**0.5), Calibration(DEPTHS)
    for _ in range(2000):
        drafter.step(calibration)
    drafter.says = lambda p: p
    for _ in range(5000):
        drafter.step(calibration)
    truth = np.linspace(0.1, 0.4, 7)
    np.testing.assert_allclose(grid(calibration, 1, truth), truth, atol=0.07)


def test_maps_rise_and_children_are_worth_less_than_their_parents() -> None:
    drafter, calibration = KnownDrafter(4, lambda p: 1 - p), Calibration(DEPTHS)
    for _ in range(300):
        drafter.step(calibration)
    assert (np.diff(calibration.table(), axis=1) >= 0).all()
    logprob = np.zeros((2, NODES))
    values = calibration.values(logprob, np.tile(PARENTS, (2, 1)), np.tile(DEPTH, (2, 1)))
    for node, parent in enumerate(PARENTS):
        assert (values[:, node] < (1.0 if parent < 0 else values[:, parent])).all()


def test_values_are_products_along_the_path() -> None:
    drafter, calibration = KnownDrafter(5, lambda p: p**0.7), Calibration(DEPTHS)
    for _ in range(100):
        drafter.step(calibration, 2)
    rng = np.random.default_rng(0)
    said = np.log(rng.uniform(0.05, 0.9, (3, NODES)))
    logprob, expected = said.copy(), np.empty_like(said)
    for node, parent in enumerate(PARENTS):
        step = calibration.apply(np.full(3, DEPTH[node]), said[:, node])
        expected[:, node] = step if parent < 0 else step * expected[:, parent]
        logprob[:, node] += 0 if parent < 0 else logprob[:, parent]
    values = calibration.values(logprob, np.tile(PARENTS, (3, 1)), np.tile(DEPTH, (3, 1)))
    np.testing.assert_allclose(values, expected, rtol=0.05)


def test_padding_is_worth_nothing_and_teaches_nothing() -> None:
    calibration = Calibration(2)
    logprob = np.array([[-0.5, -np.inf, -np.inf]])
    parent, depth = np.array([[-1, -1, 1]]), np.array([[1, 1, 2]])
    values = calibration.values(logprob, parent, depth)
    assert values[0, 0] > 0.5
    assert values[0, 1:].tolist() == [0.0, 0.0]
    calibration.observe(np.array([[3, 3, 3]]), parent, depth, logprob, [([3, 9], [0])])
    assert calibration.report()["depths"] == {
        "1": {"predicted": 0.6065, "calibrated": pytest.approx(0.6065, abs=0.01), "observed": 1.0, "steps": 1}
    }


def test_the_report_counts_what_happened() -> None:
    drafter, calibration = KnownDrafter(6, lambda p: p**0.8), Calibration(DEPTHS)
    for _ in range(37):
        drafter.step(calibration, 3)
    report = calibration.report()["depths"]
    assert set(report) == {"1", "2", "3"}
    for depth in (1, 2, 3):
        seen = [(said, taken) for at, said, taken in drafter.seen if at == depth]
        entry = report[str(depth)]
        assert entry["observed"] * entry["steps"] == pytest.approx(sum(t for _, t in seen), abs=0.1)
        assert entry["predicted"] * entry["steps"] == pytest.approx(sum(s for s, _ in seen), abs=0.1)
    assert report["1"]["steps"] == 37 * 3
    assert report["2"]["steps"] == round(report["1"]["observed"] * 37 * 3)


def test_a_node_that_was_drafted_but_not_verified_is_learnt_from() -> None:
    calibration = Calibration(2)
    token, parent, depth = np.array([[5, 6, 8]]), np.array([[-1, -1, 0]]), np.array([[1, 1, 2]])
    logprob = np.log(np.array([[0.5, 0.25, 0.25]]))
    for _ in range(200):
        calibration.observe(token, parent, depth, logprob, [([6], [])])
    report = calibration.report()["depths"]
    assert report["1"]["observed"] == 1.0
    assert "2" not in report
    assert grid(calibration, 1, np.array([0.25]))[0] > 0.45


def test_another_drafter_is_learnt_faster_by_an_heir() -> None:
    def after(inherits: bool) -> float:
        drafter, calibration = KnownDrafter(7, lambda p: p**0.5), Calibration(DEPTHS)
        for _ in range(1500):
            drafter.step(calibration)
        if inherits:
            calibration = calibration.heir()
        drafter.says = lambda p: p
        for _ in range(300):
            drafter.step(calibration)
        truth = np.linspace(0.1, 0.4, 7)
        return float(np.abs(grid(calibration, 1, truth) - truth).mean())

    assert after(True) < 0.7 * after(False)


def test_trees_ranked_by_noise_have_maps_of_their_own() -> None:
    """Two kinds of trees in one batch, of which one boasts."""
    calibration = Calibration(1)
    rng = np.random.default_rng(8)
    parent, depth = np.full((2, 1), -1), np.ones((2, 1), np.int64)
    token, ranked = np.full((2, 1), 5), np.array([False, True])
    for _ in range(1500):
        said = rng.uniform(0.1, 0.9, (2, 1))
        taken = rng.random((2, 1)) < said ** np.array([[1.0], [3.0]])
        walks = [([5, 9], [0]) if hit else ([9], []) for hit in taken[:, 0]]
        share = np.array([[0.0], [0.5]])
        calibration.observe(token, parent, depth, np.log(said), walks, share, ranked)
    p = np.linspace(0.2, 0.85, 8)
    np.testing.assert_allclose(grid(calibration, 1, p), p, atol=0.09)
    np.testing.assert_allclose(grid(calibration, 2, p), p**3, atol=0.09)
    values = calibration.values(np.log(np.array([[0.6], [0.6]])), parent, depth, ranked)
    assert values[1, 0] < 0.5 < values[0, 0]
    report = calibration.report()
    assert report["depths"]["1"]["steps"] == 3000
    assert report["noise_ranked"]["depths"]["1"]["steps"] == 1500
    assert report["noise_ranked"]["raw_error"] > 3 * report["noise_ranked"]["error"]
    assert len(report["noise_ranked"]["trust"]) == 1


def test_trust_is_learnt_from_walks() -> None:
    """The noise's favourite is always taken, the heads' never."""
    calibration = Calibration(2)
    before = calibration.trust_D.copy()
    token, parent, depth = np.array([[5, 6]]), np.array([[-1, -1]]), np.array([[1, 1]])
    for _ in range(100):
        weight = calibration.trust_D[0]
        logprob = np.log(np.array([[0.9 * weight, 0.9 * (1 - weight)]]))
        share = np.array([[1.0, 0.0]])
        calibration.observe(token, parent, depth, logprob, [([5, 9], [0])], share, np.array([True]))
    assert calibration.trust_D[0] > 0.8
    assert calibration.trust_D[1] == pytest.approx(before[1], abs=0.02)
    calibration = calibration.heir(0.0)
    assert calibration.trust_D[0] == pytest.approx(before[0], abs=0.02)


def test_without_noise_nothing_is_reported_of_it() -> None:
    drafter, calibration = KnownDrafter(9, lambda p: p), Calibration(DEPTHS)
    for _ in range(20):
        drafter.step(calibration)
    assert calibration.report()["noise_ranked"] is None
