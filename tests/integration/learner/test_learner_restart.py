"""The learner dies in the middle of its work, and another one goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from online_draft.learner.checkpoint import CheckpointStore
from online_draft.learner.config import LearnerConfig
from online_draft.monitor.rollups.reader import read_rollup

LEARN_FOR_EVER = """
import json, sys, threading, torch
from pathlib import Path
from online_draft.learner.config import LearnerConfig, LearnerPlace
from online_draft.learner.loop import LearnerLoop
from online_draft.models.config import TargetConfig
from online_draft.models.loading import LoadedTarget, random_target

torch.set_num_threads(1)
place, config, fingerprint = json.loads(sys.argv[1])
sizes = TargetConfig.tiny("llama", False, 64)
target = random_target(sizes, 0, torch.float32, logit_scale=4.0)
loaded = LoadedTarget(target, None, sizes, fingerprint, "tiny", Path())
LearnerLoop(LearnerPlace(**place), LearnerConfig.from_dict(config), loaded).run(threading.Event())
"""


def test_a_killed_learner_goes_on_from_its_checkpoint(
    service: Any, learner_config: LearnerConfig, until: Callable[..., Any]
) -> None:
    config = replace(learner_config, gate=replace(learner_config.gate, every_slices=10**6))
    service.serve(100)
    raw = [
        asdict(service.place),
        asdict(replace(config, mode="dedicated")),
        service.traffic.loaded.fingerprint,
    ]
    process = subprocess.Popen([sys.executable, "-c", LEARN_FOR_EVER, json.dumps(raw)])
    try:
        checkpoints = CheckpointStore(service.store, service.traffic.loaded.fingerprint)

        def progress() -> dict[str, Any]:
            checkpoint, problems = checkpoints.load()
            assert not problems
            return checkpoint.progress["total"] if checkpoint else {"slices": 0}

        def replayed() -> int:
            """Records whose drift acceptance is in the roll-ups."""
            now = int(time.time())
            found = read_rollup(service.client, service.keys, now - 600, now + 1, 60)
            return sum(counts.drift.samples for counts in found.get((), {}).values())

        until(lambda: (progress()["slices"] >= 10 and replayed()) or process.poll() is not None, 60)
    finally:
        process.kill()
        process.wait()
    before = progress()["slices"]
    assert before >= 10 and replayed()
    service.serve(50, seed=1)

    loop = service.learner(config)
    places = ("training", "held_out", "repetition")
    service.run(loop, lambda: sum(loop.status()["feed"][place] for place in places) == 150)
    status = loop.status()
    assert status["slices"] >= before and status["steps"] >= before
    assert status["feed"]["duplicate"] == 0, "a record in the checkpoint is not learnt from twice"
    sizes = status["feed"]["segments"]["a"]
    kept = sizes["recent"] + sizes["held_out"]
    assert kept + status["feed"]["repetition"] == 150, "none is lost either"


def test_records_without_a_checkpoint_come_again(service: Any, learner_config: LearnerConfig) -> None:
    never = replace(learner_config, pace=replace(learner_config.pace, checkpoint_every_s=10**6))
    service.serve(30)
    first = service.learner(never)
    service.run(first, lambda: first.status()["unsettled"] == 30)
    second = service.learner(learner_config)
    service.run(second, lambda: second.status()["unsettled"] == 30)
    service.run(second, lambda: second.status()["checkpoint"])
    assert second.status()["unsettled"] == 0
    pending = service.client.xpending(service.keys.records, service.keys.learner_group)
    assert pending["pending"] == 0


def test_an_ended_learner_loses_nothing(service: Any, learner_config: LearnerConfig) -> None:
    never = replace(learner_config, pace=replace(learner_config.pace, checkpoint_every_s=10**6))
    service.serve(100)
    first = service.learner(never)
    service.run(first, lambda: first.status()["slices"] >= 5)
    first.close()
    second = service.learner(never)
    service.run(second, lambda: second.status()["champion"])
    assert second.status()["slices"] >= first.status()["slices"]
    assert second.status()["steps"] >= first.status()["steps"]


def test_a_promotion_while_the_learner_was_away_keeps_its_student(service: Any) -> None:
    service.serve()
    first = service.learner()
    service.run(first, lambda: service.state.candidate)
    steps = first.status()["steps"]
    first.close()
    service.control().tick()
    second = service.learner()
    service.run(second, lambda: second.status()["champion"] == service.state.champion)
    assert second.status()["steps"] >= steps
    assert second.status()["looks"] == 0, "another champion, another gate"


def test_a_damaged_checkpoint_costs_no_more_than_what_it_held(service: Any) -> None:
    service.serve()
    first = service.learner()
    service.run(first, lambda: (first.status()["checkpoint"] or 0) >= 2)
    first.close()
    newest = max((service.directory / "store/learner").glob("*/*"))
    (newest / "trainer.safetensors").write_bytes(b"junk")
    second = service.learner()
    service.run(second, lambda: second.status()["champion"])
    # The tick that found the champion may have trained a slice already.
    assert 0 < second.status()["slices"] <= first.status()["slices"] + 1
