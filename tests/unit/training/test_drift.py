from __future__ import annotations

import math

import pytest
import torch

from online_draft.models.artifact import new_drafter
from online_draft.models.loading import LoadedTarget
from online_draft.training.drift import NODES, first_choices, output_entropies
from online_draft.training.features import TokenRecord, extract
from online_draft.training.replay import replay_features
from online_draft.training.trainer import Trainer, TrainerConfig


def test_counts_the_likeliest_tokens_on_the_walk(tiny: LoadedTarget, greedy: list[TokenRecord]) -> None:
    drafter = new_drafter("amphista", tiny.target, window=32, num_heads=3, intermediate_size=32)
    learner = Trainer(drafter, tiny.target, TrainerConfig(learning_rate=5e-3, warmup_steps=2))
    before = first_choices(drafter, extract(tiny.target, greedy))
    for _ in range(60):
        learner.slice(greedy[:8])
    features = extract(tiny.target, greedy)
    after = first_choices(learner.candidate(), features)

    def rate(counts: list) -> float:  # type: ignore[type-arg]
        return sum(sum(c.hits) for c in counts) / sum(sum(c.tried) for c in counts)

    assert rate(after) > rate(before) + 0.1
    walked = replay_features(learner.candidate(), features, NODES)
    for result, counts in zip(walked, after, strict=True):
        assert all(hit <= tried for hit, tried in zip(counts.hits, counts.tried, strict=True))
        assert counts.tried[0] == result.steps - 1, "every draft's first choice counts"
        assert all(hit <= accepted for hit, accepted in zip(counts.hits, result.accepted, strict=True))


def test_with_one_node_the_likeliest_tokens_are_all_there_is(
    tiny: LoadedTarget, greedy: list[TokenRecord]
) -> None:
    drafter = new_drafter("amphista", tiny.target, window=32, num_heads=3, intermediate_size=32)
    features = extract(tiny.target, greedy)
    for result in replay_features(drafter, features, 1, width=1, first_choices=True):
        assert result.first_hits == result.accepted and result.first_tried[1:] == [0, 0]
    plain = replay_features(drafter, features, 1, width=1)
    assert all(result.first_tried == [] for result in plain)


def test_entropy_is_that_of_the_target_where_it_chose(tiny: LoadedTarget, greedy: list[TokenRecord]) -> None:
    record = greedy[0]
    ((total, count),) = output_entropies(tiny.target, extract(tiny.target, [record]))
    assert count == len(record.output_ids)
    hidden_TF = extract(tiny.target, [record]).hidden_BTF[0]
    start, end = len(record.prompt_ids), len(record.prompt_ids) + count
    with torch.no_grad():
        p_PV = tiny.target.logits(hidden_TF[start - 1 : end - 1]).softmax(-1)
    assert total == pytest.approx(float(-(p_PV * p_PV.log()).sum()), rel=1e-5)
    assert 0 < total / count < math.log(256)


def test_long_outputs_are_sampled(tiny: LoadedTarget) -> None:
    long = TokenRecord((1, 2), tuple(i % 256 for i in range(100)))
    short = TokenRecord((1, 2), (3,))
    found = output_entropies(tiny.target, extract(tiny.target, [long, short]))
    assert [count for _, count in found] == [64, 1]
