"""`bench decode` on the embedded target: the JSON that others read, and what it must show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from online_draft.bench.decode import PROMPTS
from online_draft.cli import app
from online_draft.training.distillation.prompts import read_prompts

METHOD_FIELDS = {
    "tokens",
    "seconds",
    "spread",
    "tokens_per_second",
    "mean_accepted_length",
    "acceptance_by_depth",
    "speedup",
    "changed_outputs",
    "near_ties",
    "speedup_spread",
    "speedup_over_tau",
    "over",
    "calibration",
    "buckets",
    "by_source",
    "ngram",
}


@pytest.mark.parametrize(("name", "least"), [("default", 200), ("copying", 40)])
def test_many_prompts_ship_and_no_two_are_alike(name: str, least: int) -> None:
    prompts = read_prompts(PROMPTS[name])
    assert len(prompts) >= least
    assert len({str(p.messages) for p in prompts}) == len(prompts)


def test_the_ngram_memory_is_measured_alone_and_beside_heads(tmp_path: Path) -> None:
    """On prompts whose answers repeat them it commits several tokens a step, untrained."""
    out = tmp_path / "out.json"
    methods = ["plain", "ngram", "amphista", "amphista+ngram"]
    arguments = ["bench", "decode", "--prompts", "copying", "--methods", ",".join(methods), "--limit", "8"]
    arguments += ["--repeat", "1", "--threads", "1", "--speculation", "always", "--json", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    entries = json.loads(out.read_text())["methods"]
    assert list(entries) == methods
    for name, entry in entries.items():
        assert set(entry) == METHOD_FIELDS
        assert entry["changed_outputs"] == 0 and entry["tokens"] == entries["plain"]["tokens"]
        assert sum(entry["by_source"].values()) == entry["tokens"]
        assert (entry["ngram"] is not None) == ("ngram" in name)
    tau = {name: entry["mean_accepted_length"] for name, entry in entries.items()}
    assert tau["ngram"] > 2.0
    assert tau["amphista+ngram"] > 1.1 * tau["amphista"]
    assert entries["ngram"]["by_source"]["heads"] == entries["amphista"]["by_source"]["ngram"] == 0
    assert set(entries["amphista+ngram"]["over"]) == {"amphista"}


def test_report_has_the_frozen_fields_and_drafting_pays_in_steps(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    arguments = ["bench", "decode", "--limit", "8", "--repeat", "1", "--max-new-tokens", "48", "--batch", "2"]
    always = ["--threads", "1", "--speculation", "always"]
    result = CliRunner().invoke(app, [*arguments, *always, "--json", str(out)])
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert {"target", "device", "threads", "prompts", "methods"} <= set(report)
    assert (report["target"], report["device"], report["prompts"]) == ("embedded", "cpu", 8)
    methods = report["methods"]
    assert set(methods) == {"plain", "medusa", "amphista"}
    for entry in methods.values():
        assert set(entry) == METHOD_FIELDS
        assert entry["tokens"] == methods["plain"]["tokens"]
        assert entry["changed_outputs"] == 0
    assert methods["plain"]["mean_accepted_length"] == 1.0
    assert methods["amphista"]["mean_accepted_length"] > methods["medusa"]["mean_accepted_length"] > 2.0
    assert len(methods["amphista"]["acceptance_by_depth"]) == 5


def test_transformers_and_synthetic_drafts_are_measured_beside_plain_decoding(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    methods = ["plain", "synthetic:3.3", "hf-generate", "hf-prompt-lookup"]
    arguments = ["bench", "decode", "--methods", ",".join(methods), "--limit", "2", "--repeat", "1"]
    arguments += ["--max-new-tokens", "24", "--threads", "1", "--speculation", "always"]
    result = CliRunner().invoke(app, [*arguments, "--json", str(out)])
    assert result.exit_code == 0, result.output
    entries = json.loads(out.read_text())["methods"]
    assert list(entries) == methods
    for name, entry in entries.items():
        assert set(entry) == METHOD_FIELDS
        assert entry["changed_outputs"] == 0 and entry["tokens"] == entries["plain"]["tokens"]
        assert set(entry["over"]) == {"hf-generate", "hf-prompt-lookup"} - {name}
    assert 2.0 < entries["synthetic:3.3"]["mean_accepted_length"] < 4.5
    assert entries["hf-generate"]["mean_accepted_length"] == 1.0
    synthetic = entries["synthetic:3.3"]
    ratio = synthetic["speedup"] / synthetic["mean_accepted_length"]
    assert synthetic["speedup_over_tau"] == pytest.approx(ratio, abs=2e-3)


def test_transformers_can_sample_a_batch(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    arguments = ["bench", "decode", "--methods", "plain,hf-generate", "--limit", "3", "--repeat", "1"]
    more = ["--batch", "2", "--temperature", "0.7", "--max-new-tokens", "8", "--json", str(out)]
    result = CliRunner().invoke(app, [*arguments, *more])
    assert result.exit_code == 0, result.output
    sampled = json.loads(out.read_text())["methods"]["hf-generate"]
    assert sampled["tokens"] > 0 and sampled["changed_outputs"] is None


def test_spec_bench_turns_are_answered_one_after_the_other(tmp_path: Path) -> None:
    prompts = tmp_path / "turns.jsonl"
    turns = ["Tell me a story about a cat.", "Tell me a story about a dog."]
    prompts.write_text(json.dumps({"question_id": 1, "category": "writing", "turns": turns}) + "\n")
    out = tmp_path / "out.json"
    arguments = ["bench", "decode", "--prompts", str(prompts), "--methods", "plain", "--repeat", "1"]
    result = CliRunner().invoke(app, [*arguments, "--max-new-tokens", "8", "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text())["methods"]["plain"]["tokens"] == 16


@pytest.mark.parametrize(
    ("line", "named"),
    [('{"text": "x"}', "`prompt`, `messages` or `turns`"), ("not json", ":1:"), ('{"turns": []}', ":1:")],
)
def test_a_bad_prompt_file_is_named_with_its_line(tmp_path: Path, line: str, named: str) -> None:
    prompts = tmp_path / "bad.jsonl"
    prompts.write_text(line + "\n")
    from online_draft.errors import ConfigError

    with pytest.raises(ConfigError) as caught:
        read_prompts(prompts)
    assert named in str(caught.value)
    assert str(prompts) in str(caught.value)
