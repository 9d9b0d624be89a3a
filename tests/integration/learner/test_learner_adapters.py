"""The learner decides about adapters whose base serves no more, between its own slices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from online_draft.learner.config import LearnerConfig
from online_draft.models.artifact import load_drafter, save_drafter
from online_draft.registry.adapters import AdapterRegistry
from online_draft.registry.ladder import decide
from online_draft.registry.manifest import Provenance


def test_an_adapter_is_gated_on_a_new_base_though_there_is_nothing_else_to_learn(
    service: Any,
    learner_config: LearnerConfig,
    make_adapter: Callable[..., Any],
    save_adapter: Callable[..., Path],
    tmp_path: Path,
) -> None:
    fingerprint = service.traffic.loaded.fingerprint
    service.registry.fetch("start", tmp_path / "base")
    adapter = make_adapter(load_drafter(tmp_path / "base"), "a", scale=2.0)
    directory = save_adapter(adapter, tmp_path / "adapter", target=fingerprint)
    name = AdapterRegistry(service.store, fingerprint).publish(directory, "start", Provenance())
    save_drafter(service.traffic.drafter(seed=1), tmp_path / "other", fingerprint)
    service.registry.publish(tmp_path / "other", Provenance(), name="other")

    service.serve(80)
    loop = service.learner(replace(learner_config, pace=replace(learner_config.pace, passes=0.5)))
    service.run(loop, lambda: loop.status()["reason"] == "nothing new to learn")
    about = {"segment": "a", "base": "start"}
    decide(service.journal, service.state.seq, "adapter_load", name, "admin", "test", about)
    service.decide("promote", "other")
    service.run(loop, lambda: not service.state.waiting_adapters)
    decision = service.journal.read()[-1]
    assert (decision.kind, decision.version, decision.actor) == ("adapter_drop", name, "learner")
    assert decision.numbers["base"] == "other" and decision.numbers["records"] >= 16
    assert loop.status()["adapters"]["dropped"] == 1
    service.run(loop, lambda: loop.status()["champion"] == "other" and loop.status()["slices"] > 0)
