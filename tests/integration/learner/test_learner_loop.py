from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from online_draft.learner.config import LearnerConfig, PaceConfig
from online_draft.learner.student import Student
from online_draft.store.packing import unpack
from online_draft.training import trainer


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
    def spoil(student: Student, *arguments: Any) -> Any:
        with torch.enable_grad():
            metrics = learn(student, *arguments)
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


def test_a_slice_under_way_ends_when_a_request_comes(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    service.serve()
    loop = service.learner()
    service.run(loop, lambda: loop.status()["slices"] >= 3)
    assert loop._lookout.wait_until_listening(10)
    prefill = trainer.extract_packed

    def busy_during_prefill(*arguments: Any) -> Any:
        features = prefill(*arguments)
        service.say_load(1)
        deadline = time.monotonic() + 10
        while not loop._lookout._bell.rung():
            assert time.monotonic() < deadline, "the learner didn't hear it"
            time.sleep(0.001)
        return features

    before = loop.status()
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "extract_packed", busy_during_prefill)
        service.run(loop, lambda: loop.status()["interrupted"])
    status = loop.status()
    assert (status["slices"], status["steps"]) == (before["slices"], before["steps"])
    assert loop.tick() > 0 and loop.status()["state"] == "yielding"
    service.run(loop, lambda: loop.status()["slices"] > before["slices"])


def test_a_floor_share_lets_a_busy_service_learn(service: Any, learner_config: LearnerConfig) -> None:
    service.serve()
    share = 0.3
    loop = service.learner(replace(learner_config, pace=replace(learner_config.pace, floor_share=share)))
    service.run(loop, lambda: loop.status()["slices"] >= 3)
    service.say_load(1)
    loop.tick()
    before, started, worked = loop.status()["slices"], time.monotonic(), time.thread_time()
    while time.monotonic() < started + 3:
        service.say_load(1)
        time.sleep(min(loop.tick(), 0.002))
    elapsed, worked = time.monotonic() - started, time.thread_time() - worked
    assert loop.status()["slices"] > before
    assert worked < 0.8 * elapsed
    times = loop.status()["state_ms"]
    assert times["yielding"] > 0 and times["training"] > 0
    service.client.delete(service.keys.load)
    slices = loop.status()["slices"]
    for _ in range(5):
        assert loop.tick() > 0
    assert loop.status()["slices"] == slices, "an unknown load leaves nothing"


def test_an_evaluation_yields_too_and_goes_on(service: Any) -> None:
    service.serve()
    loop = service.learner()
    service.run(loop, lambda: (loop.status()["state"], loop.status()["reason"]) == ("evaluating", ""))
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


def test_what_left_the_gpu_goes_on_as_it_was(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    service.serve()
    loop = service.learner()
    service.run(loop, lambda: loop.status()["slices"] >= 3)
    monkeypatch.setattr(loop._residence, "on_gpu", True)
    service.decide("pause", None)
    service.run(loop, lambda: not loop._residence.on_gpu)
    before = loop.status()
    assert before["state"] == "paused" and before["champion"] is None and before["steps"] == 0
    service.serve(20, seed=1)
    service.run(loop, lambda: sum(loop.status()["feed"][place] for place in loop._feed.seen) == 170)
    service.decide("resume", None)
    service.run(loop, lambda: loop.status()["slices"] > before["slices"])
    after = loop.status()
    assert after["steps"] > 3 and after["champion"] == "start"
    assert sum(after["feed"][place] for place in loop._feed.seen) == 170, "what came meanwhile still counts"


def test_a_slice_without_memory_is_tried_again_with_fewer_records(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.serve()
    loop = service.learner()
    service.run(loop, lambda: loop.status()["batch"] >= 4)
    learn, most = Student.slice, 2

    def cramped(student: Student, records: Any, *arguments: Any) -> Any:
        if len(records) > most:
            raise torch.OutOfMemoryError("full")
        return learn(student, records, *arguments)

    monkeypatch.setattr(Student, "slice", cramped)
    slices = loop.status()["slices"]
    service.run(loop, lambda: loop.status()["slices"] > slices + 3)
    assert loop.status()["batch"] <= most


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
    assert published["state"] in ("waiting", "yielding", "training", "evaluating")
    assert published["champion"] == "start" and published["state_ms"]["waiting"] >= 0


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
