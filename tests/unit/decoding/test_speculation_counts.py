"""What the engine counts of its promises and of its time, for whoever divides."""

from __future__ import annotations

import numpy as np
import pytest

from online_draft.decoding.policy.calibration import Calibration
from online_draft.decoding.policy.deciles import Deciles
from online_draft.decoding.policy.ngram_calibration import NgramCalibration
from online_draft.decoding.policy.speedup import Speedup
from online_draft.models.ngram import REQUEST, NgramTree
from online_draft.models.ngram.tree import MATCH_BIT, SOURCE_BIT, SUPPORT_BIT, WHOLE


def test_nodes_are_counted_by_tenths_of_what_they_were_given() -> None:
    deciles = Deciles()
    deciles.add(np.array([0.0, 0.05, 0.1, 0.55, 0.999]), np.array([False, True, False, True, True]))
    deciles.add(np.array([1.0, 0.56]), np.array([True, False]))
    assert deciles.counts() == {
        "nodes": [2, 1, 0, 0, 0, 2, 0, 0, 0, 2],
        "promised_micro": [50_000, 100_000, 0, 0, 0, 1_110_000, 0, 0, 0, 1_999_000],
        "accepted": [1, 0, 0, 0, 0, 1, 0, 0, 0, 2],
    }


def test_a_calibration_that_converged_keeps_its_promises_in_every_tenth() -> None:
    rng = np.random.default_rng(0)
    calibration = Calibration(1)
    parent, depth = np.full((1, 1), -1), np.ones((1, 1), np.int64)
    for _ in range(6000):
        said = rng.uniform(0.05, 0.95, (1, 1))
        token = 5 if rng.random() < said[0, 0] ** 2 else 6  # the heads boast
        calibration.observe(np.full((1, 1), 5), parent, depth, np.log(said), [([token], [])])
    counts = calibration.deciles.counts()
    nodes, promised = np.array(counts["nodes"]), np.array(counts["promised_micro"]) / 1e6
    assert nodes.sum() > 5900
    for tenth in range(8):
        mean = promised[tenth] / nodes[tenth]
        assert tenth / 10 <= mean <= (tenth + 1) / 10
        assert mean == pytest.approx(counts["accepted"][tenth] / nodes[tenth], abs=0.1)
    assert sum(calibration.heir().deciles.counts()["nodes"]) == 0


def test_the_n_gram_memorys_promises_are_counted_too() -> None:
    calibration = NgramCalibration()
    evidence = 16 << MATCH_BIT | REQUEST << SOURCE_BIT | 6 << SUPPORT_BIT | WHOLE
    tree = NgramTree([100, 101], [-1, 0], [1, 2], [evidence, evidence])
    for _ in range(64):
        calibration.observe(tree, [100, 7])
    counts = calibration.deciles.counts()
    assert sum(counts["nodes"]) == 2 * sum(counts["accepted"]) >= 100
    assert counts["nodes"][9] > 0


def test_a_speedup_is_what_plain_steps_would_have_taken_over_what_was_spent() -> None:
    speedup = Speedup()
    speedup.plain(1e-3)
    speedup.drafted(2e-3, 5e-3)
    assert speedup.counts() == {"spent_us": 3_000, "plain_us": 6_000}
