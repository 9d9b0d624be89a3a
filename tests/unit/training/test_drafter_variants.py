"""Variants of Amphista from training to replay, and to serving where they can serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from online_draft.core import SpeculationCounts
from online_draft.decoding.policy.trust import NoiseTrust
from online_draft.errors import ConfigError
from online_draft.models.artifact import new_drafter
from online_draft.models.drafter import Drafter
from online_draft.models.loading import LoadedTarget
from online_draft.training.features import TokenRecord, extract
from online_draft.training.replay import mean_accepted_length, replayed_tau
from online_draft.training.trainer import Trainer, TrainerConfig

Generate = Callable[..., tuple[list[TokenRecord], list[SpeculationCounts]]]

SERVING: dict[str, dict[str, Any]] = {
    "context": {"block_context": 9},
    "two blocks, mixed sources": {"stages": 2, "block_layers": 2, "sources": (1, 0, 2, 0)},
    "one stage": {"stages": 1, "markov_rank": 0},
}
READING: dict[str, dict[str, Any]] = {
    "layers": {"feature_layers": (1,)},
    "layers and context": {"feature_layers": (1, 2), "block_context": 5},
}


def trained(tiny: LoadedTarget, records: list[TokenRecord], sizes: dict[str, Any]) -> tuple[Drafter, float]:
    """A half trained drafter, and how far its loss fell."""
    fresh = new_drafter("amphista", tiny.target, window=32, num_heads=4, **sizes)
    learner = Trainer(fresh, tiny.target, TrainerConfig(learning_rate=5e-3, warmup_steps=2))
    losses = [learner.slice(records).loss for _ in range(25)]
    return learner.candidate(), losses[-1] / losses[0]


@pytest.mark.parametrize("name", [*SERVING, *READING])
def test_every_variant_learns_all_of_its_weights(
    name: str, tiny: LoadedTarget, greedy: list[TokenRecord]
) -> None:
    sizes = {**SERVING, **READING}[name]
    before = new_drafter("amphista", tiny.target, window=32, num_heads=4, **sizes)
    drafter, fell = trained(tiny, greedy[:6], sizes)
    assert fell < 0.7
    for part, weight in drafter.named_parameters():
        assert not torch.equal(weight, before.get_parameter(part)), part
    assert mean_accepted_length(replayed_tau(drafter, tiny.target, greedy[:6])) > 1.3


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("name", SERVING)
def test_serving_accepts_what_replay_says(
    name: str,
    temperature: float,
    tiny: LoadedTarget,
    greedy: list[TokenRecord],
    answers: Generate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Replay's trust in noise is the one that serving begins with.
    monkeypatch.setattr(NoiseTrust, "update", lambda self, share: None)
    drafter, _ = trained(tiny, greedy[:6], SERVING[name])
    records, counts = answers(tiny, drafter, 8, temperature)
    plain, _ = answers(tiny, None, 8, temperature)
    assert [r.output_ids for r in records] == [r.output_ids for r in plain]
    results = replayed_tau(drafter, tiny.target, records, nodes=16, width=8, batch=3)
    assert [(r.steps, r.committed) for r in results] == [(c.steps, c.committed) for c in counts]


def test_a_drafter_of_several_layers_is_refused_by_the_engine(tiny: LoadedTarget, answers: Generate) -> None:
    drafter = new_drafter("amphista", tiny.target, window=32, feature_layers=(1,))
    with pytest.raises(ConfigError, match="feature_layers"):
        answers(tiny, drafter, 1, 0.0)


def test_the_teacher_reads_the_last_layer_whatever_the_drafter_reads(
    tiny: LoadedTarget, greedy: list[TokenRecord]
) -> None:
    usual = extract(tiny.target, greedy[:2])
    wide = extract(tiny.target, greedy[:2], layers=(2, 1))
    assert torch.equal(wide.hidden_BTF, usual.hidden_BTF)
    assert wide.rows_BTX.shape[-1] == 3 * usual.rows_BTX.shape[-1]
