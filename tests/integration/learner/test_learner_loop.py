from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from online_draft.learner.config import LearnerConfig, PaceConfig
from online_draft.learner.student import Student
from online_draft.store.packing import unpack


def test_what_beats_the_champion_on_held_out_traffic_is_proposed(service: Any) -> None:
    service.serve()
    loop = service.learner()
    service.run(loop, lambda: service.state.candidate)
    (proposal,) = (decision for decision in service.journal.read() if decision.kind == "propose")
    assert proposal.actor == "learner"
    assert proposal.numbers["gain"] >= 0.01 and proposal.numbers["lower_bound"] > 0
    assert proposal.numbers["records"] >= 16 and proposal.numbers["parent"] == "start"
    provenance = service.registry.manifest(proposal.version).provenance
    assert provenance.parent == "start" and provenance.records > 50
    assert provenance.counts["slices"] >= 30 and provenance.git_revision
    assert loop.status()["proposed_version"] == proposal.version


def test_no_second_proposal_while_the_first_is_being_decided(service: Any) -> None:
    service.serve()
    loop = service.learner()
    service.run(loop, lambda: service.state.candidate)
    before = loop.status()["slices"]
    service.serve(60, seed=1)
    service.run(loop, lambda: loop.status()["slices"] >= before + 40)
    service.run(loop, lambda: loop.status()["gate_waits_for"] == "a proposal is being decided")
    assert service.state.proposed == 1


def test_a_worse_candidate_is_refused_with_its_numbers(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = Student.slice

    @torch.no_grad()
    def spoil(student: Student, records: Any) -> Any:
        with torch.enable_grad():
            metrics = learn(student, records)
        for parameter in student._trainer.drafter.parameters():  # type: ignore[union-attr]
            parameter.add_(torch.randn_like(parameter) * 0.1)
        return metrics

    monkeypatch.setattr(Student, "slice", spoil)
    service.serve()
    loop = service.learner()
    service.run(loop, lambda: service.state.refused)
    refusal = service.journal.read()[-1]
    assert refusal.kind == "refuse" and refusal.version.startswith("unpublished-")
    assert refusal.numbers["gain"] < 0 and refusal.numbers["look"] == 1
    assert service.state.champion == "start" and service.registry.list_versions() == ["start"]
    assert loop.status()["steps"] == 0, "a student that is worse starts anew"


def test_yields_before_the_next_slice_when_a_request_comes(service: Any) -> None:
    service.serve()
    loop = service.learner()
    service.run(loop, lambda: loop.status()["slices"] >= 3)
    service.say_load(1)
    slices = loop.status()["slices"]
    for _ in range(5):
        assert loop.tick() > 0
    status = loop.status()
    assert (status["state"], status["reason"], status["slices"]) == ("yielding", "serving", slices)
    service.run(loop, lambda: loop.status()["slices"] > slices)


def test_an_evaluation_yields_too_and_goes_on(service: Any) -> None:
    service.serve()
    loop = service.learner()
    service.run(loop, lambda: loop.status()["state"] == "evaluating")
    service.say_load(1)
    for _ in range(5):
        assert loop.tick() > 0
    assert loop.status()["state"] == "yielding" and loop.status()["looks"] == 0
    slices = loop.status()["slices"]
    service.run(loop, lambda: loop.status()["looks"] == 1)
    assert loop.status()["slices"] == slices


def test_does_not_work_while_the_load_is_unknown(service: Any) -> None:
    service.serve()
    loop = service.learner()
    deadline = time.monotonic() + 10
    while not loop.status()["feed"]["training"]:
        assert time.monotonic() < deadline
        time.sleep(loop.tick())
    assert loop.tick() > 0
    assert loop.status()["state"] == "yielding"
    assert loop.status()["reason"] == "load unknown: no replica has spoken"


def test_slices_keep_to_their_limit(service: Any, learner_config: LearnerConfig) -> None:
    pace = PaceConfig(
        idle_ms=1, slice_ms=20, max_batch=64, passes=1000, read_every_ms=1, checkpoint_every_s=60
    )
    service.serve()
    loop = service.learner(replace(learner_config, pace=pace))
    service.run(loop, lambda: loop.status()["slices"] >= 15)
    assert loop.status()["batch"] < 64, "grows only while slices are short enough"
    assert loop.status()["slice_ms"] < 60


def test_pauses_and_resumes_by_decision(service: Any) -> None:
    service.serve()
    loop = service.learner()
    service.run(loop, lambda: loop.status()["slices"] >= 2)
    service.decide("pause", None)
    service.run(loop, lambda: loop.status()["state"] == "paused")
    slices = loop.status()["slices"]
    for _ in range(20):
        service.say_load(0)
        assert loop.tick() > 0
    assert loop.status()["slices"] == slices
    service.decide("resume", None)
    service.run(loop, lambda: loop.status()["slices"] > slices)


def test_starts_anew_from_a_champion_of_other_lineage(service: Any) -> None:
    service.serve()
    loop = service.learner()
    service.run(loop, lambda: service.state.candidate)
    service.control().tick()
    promoted = service.state.champion
    steps = loop.status()["steps"]
    service.run(loop, lambda: loop.status()["champion"] == promoted)
    assert loop.status()["steps"] >= steps > 0, "its own promotion keeps the student"
    service.decide("roll_back", "start")
    service.run(loop, lambda: loop.status()["champion"] == "start")
    assert loop.status()["steps"] <= 1


def test_starts_anew_when_its_proposal_is_rejected_by_hand(service: Any) -> None:
    service.serve()
    loop = service.learner()
    service.run(loop, lambda: service.state.candidate)
    service.decide("refuse", service.state.candidate)
    service.run(loop, lambda: loop.status()["proposed_version"] is None)
    assert loop.status()["steps"] <= 1


def test_rests_when_there_is_nothing_new_to_learn(service: Any, learner_config: LearnerConfig) -> None:
    pace = replace(learner_config.pace, passes=1)
    service.serve(40)
    loop = service.learner(replace(learner_config, pace=pace))
    service.run(loop, lambda: loop.status()["reason"] == "nothing new to learn")
    slices = loop.status()["slices"]
    assert slices > 0 and loop.status()["state"] == "waiting"
    service.serve(40, seed=1)
    service.run(loop, lambda: loop.status()["slices"] > slices)


def test_says_in_redis_what_it_does(service: Any) -> None:
    service.serve()
    loop = service.learner()
    service.run(
        loop,
        lambda: loop.status()["state"] == "training" and service.client.get(service.keys.status("learner")),
    )
    raw = service.client.get(service.keys.status("learner"))
    published: Any = unpack(raw, "status")
    assert published["state"] in ("waiting", "yielding", "training") and published["champion"] == "start"


def test_records_of_another_target_are_not_learnt_from(service: Any) -> None:
    service.serve(20, target="llama-ffffffffffffffff-01234567")
    service.serve(20, seed=1)
    loop = service.learner()
    service.run(loop, lambda: loop.status()["feed"]["reader"]["delivered"] == 20)
    assert loop.status()["feed"]["reader"]["other_target"] == 20


def test_survives_redis_going_away_and_coming_back(service: Any) -> None:
    service.serve()
    loop = service.learner()
    service.run(loop, lambda: loop.status()["slices"] >= 2)
    service.redis.stop()
    for _ in range(3):
        assert loop.tick() > 0
    assert loop.status()["state"] == "yielding" and loop.status()["reason"].startswith("load unknown")
    slices = loop.status()["slices"]
    service.redis.start()
    service.run(loop, lambda: loop.status()["slices"] > slices)
