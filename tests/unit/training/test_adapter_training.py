"""An adapter learns its segment, leaves its base alone, and is a file that peft itself can read."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from online_draft.errors import ArtifactError, ConfigError
from online_draft.models.adapters.adapter import AdapterCard
from online_draft.models.adapters.files import read_adapter
from online_draft.models.adapters.merge import merged
from online_draft.models.artifact import base_digest, new_drafter, save_drafter, weights_digest
from online_draft.training.adapters.run import AdapterRun, divide, run
from online_draft.training.adapters.student import AdapterStudent, LinearHeads, LoraSizes
from online_draft.training.adapters.train import AdapterTraining, judge, train_adapter
from online_draft.training.distillation.answers import AnswerConfig
from online_draft.training.features import TokenRecord
from online_draft.training.trainer_config import TrainerConfig

FAST = AdapterTraining(
    steps=60, batch=12, lora=LoraSizes(8), trainer=TrainerConfig(learning_rate=2e-2, anchors=24)
)


def card_for(drafter: Any, segment: str = "a") -> AdapterCard:
    return AdapterCard(segment, drafter.kind, "target", base_digest(drafter), "v1")


@pytest.fixture(scope="session")
def learnt(traffic: Any) -> tuple[Any, AdapterStudent, list[Any]]:
    """A base, the student trained on it, and held-out records of its segment."""
    base = traffic.drafter().requires_grad_(False)
    records = traffic.interactions(200, "a")
    student = train_adapter(base, traffic.loaded.target, records[40:], card_for(base), FAST)
    return base, student, records[:40]


def test_it_beats_none_on_its_segment_and_the_base_is_as_it_was(
    traffic: Any, learnt: tuple[Any, AdapterStudent, list[Any]]
) -> None:
    base, student, held_out = learnt
    numbers = judge(base, student.adapter(), traffic.loaded.target, held_out)
    assert numbers.passed, numbers.reason
    assert numbers.tau_candidate > numbers.tau_champion + 0.1
    assert weights_digest(base) == weights_digest(traffic.drafter())
    assert all(".lora_" in name for name, _ in student.named_parameters())


def test_student_merged_and_read_back_draft_the_same(
    traffic: Any, learnt: tuple[Any, AdapterStudent, list[Any]], tmp_path: Path
) -> None:
    base, student, _ = learnt
    student.save(tmp_path, replace(card_for(base), evaluation={"tau": 2.0}))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "card.json",
    ]
    stored = read_adapter(tmp_path)
    assert stored.card.evaluation == {"tau": 2.0}
    hidden = torch.randn(1, 20, base.config.hidden_size)
    tokens = torch.randint(0, 64, (1, 20))

    def drafted(drafter: Any) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = drafter.heads(drafter.context(hidden, tokens)[0])
            return logits

    expected = drafted(student)
    torch.testing.assert_close(drafted(student.clone()), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(drafted(merged(base, stored)), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(drafted(base), expected, atol=1e-2)


def test_peft_reads_what_was_saved(learnt: tuple[Any, AdapterStudent, list[Any]], tmp_path: Path) -> None:
    from peft import PeftModel

    base, student, _ = learnt
    student.save(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = PeftModel.from_pretrained(LinearHeads(base), str(tmp_path))
    weight = loaded.get_submodule("base_model.model.residual.1.lora_B.default").weight
    assert torch.equal(weight, student.get_submodule("residual.1.lora_B.default").weight)


def test_what_can_not_be_trained_says_why(traffic: Any) -> None:
    base, target = traffic.drafter(), traffic.loaded.target
    with pytest.raises(ConfigError, match="segment"):
        train_adapter(base, target, [], card_for(base))
    with pytest.raises(ArtifactError, match="medusa heads take no adapters"):
        AdapterStudent(new_drafter("medusa", target), card_for(base))
    with pytest.raises(ConfigError, match="rank"):
        LoraSizes(0)
    with pytest.raises(ConfigError, match="minutes"):
        AdapterTraining(minutes=0)


def test_equal_prompts_stay_on_one_side() -> None:
    records = [TokenRecord((index // 2,), (1, 2), seed=index) for index in range(40)]
    train, held_out = divide(records)
    assert len(train) + len(held_out) == 40
    assert len(held_out) == 4
    assert not {r.prompt_ids for r in train} & {r.prompt_ids for r in held_out}
    with pytest.raises(ConfigError, match="too few"):
        divide(records[:2])


def test_a_run_answers_trains_judges_and_writes(
    traffic: Any, tmp_path: Path, make_adapter: Callable[..., Any]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    alphabet = traffic.loaded.tokenizer.decode(list(range(20)))
    lines = [
        {"prompt": "".join(alphabet[(3 * i + 7 * j) % 20] for j in range(5)), "domain": "ab"[i % 2]}
        for i in range(40)
    ]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    save_drafter(traffic.drafter(), tmp_path / "base", traffic.loaded.fingerprint)
    config = AdapterRun(
        drafter=tmp_path / "base",
        segment="b",
        prompts=(prompts,),
        out=tmp_path / "adapter",
        training=replace(FAST, steps=4),
        answers=AnswerConfig(max_new_tokens=12),
    )
    phases = []
    report = run(config, lambda phase, done, total, loss: phases.append(phase), traffic.loaded)
    assert (report.segment, report.held_out) == ("b", 2)
    assert list(dict.fromkeys(phases)) == ["answer", "train", "evaluate"]
    card = read_adapter(tmp_path / "adapter").card
    assert (card.segment, card.base_version) == ("b", "base")
    assert card.provenance["steps"] == 4 and card.evaluation["tau"] == report.tau
    with pytest.raises(ConfigError, match="there are a, b"):
        run(replace(config, segment="c"), loaded=traffic.loaded)
