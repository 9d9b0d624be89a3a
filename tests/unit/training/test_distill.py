from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from online_draft.errors import ConfigError
from online_draft.models.artifact import load_drafter, read_manifest, weights_digest
from online_draft.models.loading import LoadedTarget
from online_draft.training.distillation import answers as answers_module
from online_draft.training.distillation.answers import AnswerConfig, answer, answers_key
from online_draft.training.distillation.distill import DistillConfig, DistillProgress, run, split
from online_draft.training.distillation.prompts import read_prompts
from online_draft.training.features import TokenRecord
from online_draft.training.trainer import TrainerConfig

SIZES = {"window": 32, "intermediate_size": 32}


class Interrupted(Exception):
    pass


def settings(directory: Path, **changes: object) -> DistillConfig:
    prompts = directory / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"number {i}: "}) + "\n" for i in range(12)))
    config = DistillConfig(
        target="tiny",
        prompts=prompts,
        out=directory / "out",
        steps=6,
        batch=4,
        answers=AnswerConfig(max_new_tokens=10, batch=4),
        trainer=TrainerConfig(warmup_steps=2, anchors=4),
        sizes=SIZES,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def test_distill_writes_a_drafter_with_its_provenance(tiny: LoadedTarget, tmp_path: Path) -> None:
    seen: list[DistillProgress] = []
    report = run(settings(tmp_path, methods=("amphista", "medusa")), seen.append, tiny)
    assert [method.method for method in report.methods] == ["amphista", "medusa"]
    assert (report.prompts, report.held_out) == (12, 1)
    assert report.answer_tokens == 120
    for method in report.methods:
        drafter = load_drafter(method.directory, tiny.target, "tiny-1")
        assert drafter.kind == method.method
        provenance = read_manifest(method.directory)["provenance"]
        assert provenance["steps"] == method.steps == 6
        assert provenance["evaluation"]["tau"] == method.tau >= 1
        assert [(p["name"], len(p["sha256"])) for p in provenance["prompts"]] == [("prompts.jsonl", 64)]
    assert {(p.phase, p.method) for p in seen} == {
        ("answer", ""),
        ("train", "amphista"),
        ("evaluate", "amphista"),
        ("train", "medusa"),
        ("evaluate", "medusa"),
    }
    assert seen[0].done == 0


def test_an_interrupted_run_ends_with_the_same_drafter(tiny: LoadedTarget, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for directory in (whole, parts):
        directory.mkdir()
    run(settings(whole), lambda _: None, tiny)
    for phase, done in (("answer", 5), ("train", 3)):

        def interrupt(progress: DistillProgress, phase: str = phase, done: int = done) -> None:
            if progress.phase == phase and progress.done >= done:
                raise Interrupted

        with pytest.raises(Interrupted):
            run(settings(parts), interrupt, tiny)
    first: list[DistillProgress] = []
    run(settings(parts), first.append, tiny)
    assert (first[0].phase, first[0].done) == ("answer", 12)
    assert next(p for p in first if p.phase == "train").done == 4
    digests = [weights_digest(load_drafter(directory / "out")) for directory in (whole, parts)]
    assert digests[0] == digests[1]


def test_a_budget_in_minutes_ends_training_early(tiny: LoadedTarget, tmp_path: Path) -> None:
    report = run(settings(tmp_path, steps=100_000, minutes=0.01), lambda _: None, tiny)
    assert 20 < report.methods[0].steps < 1000


def test_answers_are_those_of_the_target_at_each_temperature(tiny: LoadedTarget, tmp_path: Path) -> None:
    prompts = [(1, 2, 3), (4, 5), (1, 2, 3), (4, 5)]
    config = AnswerConfig(max_new_tokens=8, temperatures=(0.0, 1.0), batch=2)
    records = answer(tiny, prompts, tmp_path, config, lambda done, total: None)
    assert [record.prompt_ids for record in records] == prompts
    assert [record.temperature for record in records] == [0.0, 1.0, 0.0, 1.0]
    assert records[0].output_ids == records[2].output_ids
    assert records[1].output_ids != records[3].output_ids
    assert answer(tiny, prompts, tmp_path, config, lambda done, total: None) == records


def test_a_damaged_shard_is_made_again(
    tiny: LoadedTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "SHARD_RECORDS", 2)
    prompts = [(i, i + 1) for i in range(6)]
    config = AnswerConfig(max_new_tokens=6, batch=2)
    records = answer(tiny, prompts, tmp_path, config, lambda done, total: None)
    shards = sorted(tmp_path.glob("shard-*"))
    assert len(shards) == 3
    shards[1].write_bytes(shards[1].read_bytes()[:-7])
    counted: list[int] = []
    again = answer(tiny, prompts, tmp_path, config, lambda done, total: counted.append(done))
    assert again == records
    assert counted[0] == 4


def test_prompts_that_do_not_fit_the_context_are_left_out(tiny: LoadedTarget, tmp_path: Path) -> None:
    context = tiny.config.max_position_embeddings
    prompts = [(1, 2), tuple([3] * context), ()]
    records = answer(tiny, prompts, tmp_path, AnswerConfig(max_new_tokens=4), lambda done, total: None)
    assert [record.prompt_ids for record in records] == [(1, 2)]


def test_answers_belong_to_target_prompts_and_settings() -> None:
    prompts = [(1, 2), (3,)]
    keys = {
        answers_key("a", prompts, AnswerConfig()),
        answers_key("b", prompts, AnswerConfig()),
        answers_key("a", [(1,), (2, 3)], AnswerConfig()),
        answers_key("a", prompts, AnswerConfig(seed=1)),
        answers_key("a", prompts, AnswerConfig(temperatures=(0.7,))),
    }
    assert len(keys) == 5
    assert answers_key("a", prompts, AnswerConfig(batch=3)) in keys


def test_equal_prompts_are_never_split() -> None:
    records = [TokenRecord((i % 7,), (1, 2), seed=i) for i in range(70)]
    train, held_out = split(records)
    assert len(train) + len(held_out) == 70
    assert not {r.prompt_ids for r in train} & {r.prompt_ids for r in held_out}
    with pytest.raises(ConfigError, match="too few"):
        split(records[:1])


def test_prompt_files_hold_prompts_messages_or_turns(tiny: LoadedTarget, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    lines = [
        {"prompt": "one"},
        {"turns": ["two", "later"]},
        {"messages": [{"role": "user", "content": "three"}]},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    texts = [tiny.tokenizer.decode(c.token_ids(tiny.tokenizer)) for c in read_prompts(path)]
    assert texts == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [("", "no prompt"), ("{", ":1"), ('{"text": "x"}', ":1: expected"), (None, "can't read")],
)
def test_a_wrong_prompt_file_is_refused_with_its_line(
    content: str | None, reason: str, tiny: LoadedTarget, tmp_path: Path
) -> None:
    path = tmp_path / "prompts.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=reason):
        read_prompts(path)


@pytest.mark.parametrize(
    ("field", "value"), [("methods", ()), ("methods", ("eagle",)), ("steps", 0), ("batch", 0)]
)
def test_a_wrong_setting_names_its_field(field: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=field):
        settings(tmp_path, **{field: value})
