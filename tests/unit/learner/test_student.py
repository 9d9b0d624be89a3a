from __future__ import annotations

from typing import Any

import pytest
import torch

from online_draft.errors import ArtifactError
from online_draft.learner.config import LearnerConfig
from online_draft.learner.student import Student
from online_draft.models.artifact import weights_digest
from online_draft.models.trimming import retrimmed
from online_draft.training.replay import mean_accepted_length, replayed_tau

CONFIG = LearnerConfig(learning_rate=3e-3, warmup_steps=5)


@pytest.fixture
def student(traffic: Any) -> Student:
    student = Student(traffic.loaded.target, CONFIG)
    student.follow("v0", traffic.drafter())
    return student


def test_learns_from_traffic(student: Student, traffic: Any) -> None:
    records = traffic.interactions(120)
    before = mean_accepted_length(replayed_tau(student.champion, traffic.loaded.target, records[:24], 8))
    for index in range(60):
        student.slice([records[24 + (8 * index + i) % 96] for i in range(8)])
    after = mean_accepted_length(replayed_tau(student.candidate(), traffic.loaded.target, records[:24], 8))
    assert after > 1.05 * before


def test_updates_that_stay_bad_lead_back_to_the_average_and_then_to_the_champion(
    student: Student, traffic: Any
) -> None:
    records = traffic.interactions(8)
    for _ in range(3):
        student.slice(records)
    average = weights_digest(student.candidate())
    trainer = student._trainer
    assert trainer is not None
    with torch.no_grad():
        trainer.drafter.get_parameter("place_KF").fill_(float("nan"))
    for _ in range(CONFIG.max_bad_updates):
        assert not student.slice(records).updated
    assert student.counts()["rewinds"] == 1 and student.counts()["skipped"] == CONFIG.max_bad_updates
    assert weights_digest(student.candidate()) == average
    with torch.no_grad():
        trainer.drafter.get_parameter("place_KF").fill_(float("nan"))
    for _ in range(CONFIG.max_bad_updates):
        student.slice(records)
    assert student.counts()["rewinds"] == 2 and student.steps == 0
    assert student.slice(records).updated


def test_a_snapshot_stays_as_it_was(student: Student, traffic: Any) -> None:
    records = traffic.interactions(8)
    student.slice(records)
    before, snapshot = weights_digest(student.candidate()), student.snapshot()
    student.slice(records)
    twin = Student(traffic.loaded.target, CONFIG)
    twin.restore("v0", traffic.drafter(), None, snapshot())
    assert weights_digest(twin.candidate()) == before


def test_a_candidate_is_what_would_be_published_and_stays_as_it_is(student: Student, traffic: Any) -> None:
    records = traffic.interactions(8)
    student.slice(records)
    candidate = student.candidate()
    digest = weights_digest(candidate)
    assert all(torch.equal(p, p.bfloat16().to(p.dtype)) for p in candidate.parameters())
    student.slice(records)
    assert weights_digest(candidate) == digest


def test_its_own_promotion_keeps_what_it_learnt_and_any_other_starts_anew(
    student: Student, traffic: Any
) -> None:
    student.slice(traffic.interactions(8))
    student.proposed = "v1"
    assert student.follow("v1", student.candidate())
    assert student.steps == 1 and student.proposed is None
    assert not student.follow("v0", traffic.drafter())
    assert student.steps == 0
    assert weights_digest(student.candidate()) == weights_digest(traffic.drafter())


def test_a_candidate_scores_the_tokens_of_recent_records(student: Student, traffic: Any) -> None:
    records = traffic.interactions(8)
    emitted = sorted({token for record in records for token in record.output_ids})
    rare = (
        torch.tensor([token for token in range(64) if token not in emitted][:6] + emitted[:2]).sort().values
    )
    student.follow("v1", retrimmed(traffic.drafter(), rare))
    student.slice(records)
    assert torch.equal(student.candidate().draft_ids_V, rare)
    candidate = student.candidate(records)
    assert candidate.draft_ids_V.tolist() != rare.tolist()
    assert set(candidate.draft_ids_V.tolist()) <= set(emitted)
    assert len(candidate.draft_ids_V) == 8 and not any(p.requires_grad for p in candidate.parameters())
    kept = set(candidate.draft_ids_V.tolist()) & set(rare.tolist())
    assert kept <= set(emitted[:2])


def test_goes_on_after_a_restore_as_if_nothing_had_happened(student: Student, traffic: Any) -> None:
    records = traffic.interactions(16)
    student.slice(records[:8])
    state = student.to_bytes()
    twin = Student(traffic.loaded.target, CONFIG)
    twin.restore("v0", traffic.drafter(), "v1", state)
    assert (twin.version, twin.proposed, twin.steps) == ("v0", "v1", 1)
    student.slice(records[8:])
    twin.slice(records[8:])
    assert weights_digest(twin.candidate()) == weights_digest(student.candidate())


def test_a_state_that_does_not_fit_changes_nothing(student: Student, traffic: Any) -> None:
    other = Student(traffic.loaded.target, CONFIG)
    other.follow("x", traffic.drafter(markov_rank=8))
    with pytest.raises(ArtifactError):
        student.restore("v9", traffic.drafter(), None, other.to_bytes())
    assert student.version == "v0"
