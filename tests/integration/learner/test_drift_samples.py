"""The learner measures drift acceptance on held-out records, and hurries when control sees drift."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from online_draft.buffer.reservoirs import PLACES
from online_draft.learner.config import LearnerConfig, RateConfig
from online_draft.monitor.drift.samples import read_drift_samples, read_drift_segments
from online_draft.monitor.drift.state import DriftState, publish_drift_states
from online_draft.monitor.rollups.drift_counts import DriftCounts
from online_draft.monitor.rollups.reader import read_rollup
from online_draft.monitor.rollups.resolutions import RESOLUTIONS


def test_held_out_records_are_measured_once_with_champion_and_baseline(service: Any) -> None:
    service.serve(60)
    service.serve(30, seed=1, segment="b")
    loop = service.learner()
    held_out = 0

    def measured() -> bool:
        nonlocal held_out
        held_out = loop.status()["feed"]["held_out"]
        return bool(held_out and loop.status()["drift_samples"] == held_out)

    service.run(loop, lambda: loop.status()["feed"]["training"] and measured())
    fingerprint = service.traffic.loaded.fingerprint
    assert sorted(read_drift_segments(service.client, service.keys, fingerprint)) == ["a", "b"]
    samples = [
        sample
        for segment in "ab"
        for _, sample in read_drift_samples(service.client, service.keys, fingerprint, segment, "")
    ]
    assert len(samples) == held_out == len({sample.record for sample in samples})
    assert {sample.version for sample in samples} == {"start"}
    for sample in samples:
        assert sample.champion == sample.baseline, "the champion is the baseline"
        assert sample.champion.tried[0] > 0 and sample.positions == 32
        assert sample.entropy is not None and 0 < sample.entropy < 4.2
    before = held_out
    service.serve(30, seed=2)
    service.run(loop, lambda: measured() and held_out > before)


def test_an_alarm_raises_the_learning_rate_until_it_is_quiet(
    service: Any, learner_config: LearnerConfig
) -> None:
    rate = RateConfig(boost=2.0, boost_updates=5, half_life=1000, surprise=100.0)
    service.serve()
    loop = service.learner(replace(learner_config, rate=rate))
    service.run(loop, lambda: loop.status()["slices"] >= 3)
    assert loop.status()["rate"] <= 1 and loop.status()["alarms"] == 0
    state = DriftState("a", True, "stale", 1000, 1000, {})
    publish_drift_states(service.client, service.keys, service.traffic.loaded.fingerprint, [state])
    service.run(loop, lambda: loop.status()["rate"] == 2.0)
    assert loop.status()["alarms"] == 1 and loop.status()["drifting"] == ["a"]
    service.run(loop, lambda: loop.status()["rate"] <= 1)
    assert loop.status()["alarms"] == 1, "one alarm is heard once"


def test_a_learner_that_was_killed_leaves_no_record_measured_twice(
    service: Any, learner_config: LearnerConfig
) -> None:
    # No checkpoint, so nothing is acknowledged, and the next learner gets all of it again.
    config = replace(learner_config, pace=replace(learner_config.pace, checkpoint_every_s=1e9))
    service.serve(60)
    killed = service.learner(config)

    def taken(loop: Any) -> int:
        return sum(loop.status()["feed"][place] for place in PLACES)

    def held_out(loop: Any) -> int:
        return int(loop.status()["feed"]["held_out"])

    service.run(killed, lambda: taken(killed) == 60 and killed.status()["drift_samples"] == held_out(killed))
    before = held_out(killed)
    assert before and killed.status()["checkpoint"] is None
    killed._rollups.publish()
    after = service.learner(config)
    service.serve(30, seed=2)
    service.run(
        after, lambda: taken(after) == 90 and after.status()["drift_samples"] >= held_out(after) - before > 0
    )
    after._rollups.publish()
    now = int(time.time())
    fingerprint = service.traffic.loaded.fingerprint
    samples = read_drift_samples(service.client, service.keys, fingerprint, "a", "")
    records = {sample.record for _, sample in samples if sample is not None}
    assert len(samples) == len(records) == held_out(after)
    for resolution in RESOLUTIONS:
        found = read_rollup(
            service.client, service.keys, now - 300, now + 1, resolution.seconds, by=("version",)
        )
        assert found.keys() == {("start",)}
        total = DriftCounts()
        for counts in found["start",].values():
            total.add(counts.drift)
        assert (total.samples, total.positions) == (held_out(after), 32 * held_out(after))
        assert total.hits == total.baseline_hits and total.tried == total.baseline_tried
        assert total.tried[0] == sum(sample.champion.tried[0] for _, sample in samples if sample is not None)
