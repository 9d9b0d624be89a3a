"""Learner and control when the target is updated: they leave the old one's records and decisions behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from online_draft.learner.actor import LearnerActor
from online_draft.learner.config import LearnerConfig
from online_draft.learner.features.replicas import ReplicaFeatures
from online_draft.learner.retarget import OwnTarget
from online_draft.models.head import TargetHead
from online_draft.models.loading import load_target
from online_draft.models.replacement import check_replacement, replacement_files
from online_draft.registry.carry_over import carry_over
from online_draft.registry.journal import DecisionJournal
from online_draft.registry.ladder import fold
from online_draft.registry.target_line import TargetLine, publish_copy


def saved(directory: Path, tokenizer: PreTrainedTokenizerFast, seed: int) -> Path:
    """A tiny target on disk."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, max_position_embeddings=512, eos_token_id=0, bos_token_id=None,
        initializer_range=0.5, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


class Pair:
    """A configured target, and weights that may take its place."""

    def __init__(self, service: Any, root: Path) -> None:
        tokenizer = service.traffic.loaded.tokenizer
        self.old = load_target(saved(root / "old", tokenizer, 0))
        self.path = saved(root / "new", tokenizer, 1)
        self.store = service.store
        self.line = TargetLine(self.store, self.old.fingerprint)
        self.new = check_replacement(self.old, self.path)

    def update(self) -> None:
        publish_copy(self.store, self.new, replacement_files(self.old, self.path), "test")
        carry_over(self.store, self.old.fingerprint, self.new)
        self.line.decide(len(self.line.updates()), self.new, "admin", "test", {})


@pytest.fixture
def pair(service: Any, tmp_path: Path) -> Pair:
    made = Pair(service, tmp_path)
    service.traffic = replace(service.traffic, loaded=made.old)
    service.close()
    service.__post_init__()  # begun anew, with this target
    return made


def test_the_learners_target_gets_the_new_weights_in_the_same_memory(pair: Pair, service: Any) -> None:
    place = replace(service.place, target=str(pair.old.path))
    own = OwnTarget(place, pair.old)
    assert own.current() is pair.old and not own.outdated()
    pair.update()
    assert own.outdated()
    loaded = own.current()
    assert loaded.fingerprint == pair.new and loaded.target is pair.old.target and not own.outdated()
    expected = load_target(pair.path).target
    for ours, theirs in zip(loaded.target.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    pair.line.decide(1, pair.old.fingerprint, "admin", "back", {})
    back = own.current()
    again = load_target(pair.old.path).target
    assert back.fingerprint == pair.old.fingerprint
    assert all(torch.equal(a, b) for a, b in zip(back.target.parameters(), again.parameters(), strict=True))
    shutil.rmtree(Path(service.store.root))
    assert not own.outdated(), "a store that is away is no update"


def test_a_learner_that_holds_the_head_alone_follows_with_it(pair: Pair, service: Any) -> None:
    own = OwnTarget.load(replace(service.place, target=str(pair.old.path)), "replica")
    loaded = own.current()
    assert isinstance(loaded.target, TargetHead) and isinstance(loaded.target.source, ReplicaFeatures)
    assert loaded.fingerprint == loaded.target.source.target == pair.old.fingerprint
    assert {name for name, _ in loaded.target.named_parameters()} == {"embedding", "norm", "lm_head"}
    pair.update()
    again = own.current()
    assert again.target is loaded.target
    assert again.fingerprint == loaded.target.source.target == pair.new, (
        "it would take the old one's features"
    )
    assert torch.equal(again.target.embedding, load_target(pair.path).target.embedding)


def test_a_learner_goes_on_with_the_new_target_and_without_its_old_records(
    pair: Pair, service: Any, learner_config: LearnerConfig, until: Callable[..., None]
) -> None:
    place = replace(service.place, target=str(pair.old.path))
    service.serve(80)
    actor = LearnerActor(asdict(place), asdict(replace(learner_config, mode="dedicated")))
    try:
        until(lambda: actor.status().get("slices", 0) > 0)
        pair.update()
        until(lambda: actor.status().get("champion") not in (None, "start"))
        status = actor.status()
        assert status["alive"] and status["start_error"] is None and status["slices"] == 0
        assert status["feed"]["segments"] == {}, "old records stayed"
        service.log([replace(r, target=pair.new) for r in service.traffic.interactions(60, seed=1)])
        service.log(
            [replace(r, target=pair.old.fingerprint) for r in service.traffic.interactions(5, seed=2)]
        )
        until(lambda: actor.status().get("slices", 0) > 0)
        until(lambda: actor.status()["feed"]["reader"]["other_target"] >= 5)
    finally:
        assert actor.shutdown(30)


def test_control_decides_for_the_new_target(pair: Pair, service: Any) -> None:
    control = service.control()
    control.tick()
    assert control.status()["target"] == pair.old.fingerprint and control.status()["champion"] == "start"
    pair.update()
    control.tick()
    status = control.status()
    champion = fold(DecisionJournal(service.store, pair.new).read()).champion
    assert status["target"] == pair.new and status["champion"] == champion != "start"
    assert not status["trouble"] and status["journal_seq"] == 1
