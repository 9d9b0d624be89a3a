"""`bench ablate` on the embedded target: what it writes, and that an interrupted table goes on."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from online_draft.bench import ablate
from online_draft.bench.ablate.rows import RowMaker
from online_draft.bench.ablate.workers import Message
from online_draft.cli import app

STEPS = 6
FIELDS = {
    *("group", "method", "sizes", "trainer", "data", "recompute", "parameters", "seeds", "tau"),
    *("tau_by_temperature", "kernels", "draft_ms", "step_ms", "served_tau", "tokens_per_second"),
    *("speedup", "replayed_tokens_per_second", "over_base"),
}


def arguments(out: Path, *more: str) -> list[str]:
    names = "base,layers-mixed,recompute-8"
    budget = ["--seeds", "1", "--steps", str(STEPS), "--batch", "2", "--answers", "24", "--repeat", "1"]
    sizes = ["--max-new-tokens", "12", "--speed-prompts", "1"]
    return ["bench", "ablate", "--variants", names, *budget, *sizes, "--json", str(out), *more]


@pytest.mark.slow
def test_an_interrupted_table_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.json"
    heard: list[Message] = []
    hear = ablate._Training.hear

    def interrupt(self: ablate._Training, message: Message) -> None:
        heard.append(message)
        if len(heard) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        hear(self, message)

    monkeypatch.setattr(ablate._Training, "hear", interrupt)
    stopped = CliRunner().invoke(app, arguments(out))
    assert stopped.exit_code == 1, stopped.output
    assert json.loads(out.read_text())["complete"] is False
    assert [message.steps for message in heard] == [0, 1, 2, 3]
    assert len(list((tmp_path / "out.json.work" / "training").iterdir())) == 1

    heard.clear()
    monkeypatch.setattr(ablate._Training, "hear", lambda self, message: heard.append(message))
    done = CliRunner().invoke(app, arguments(out))
    assert done.exit_code == 0, done.output
    assert [m.steps for m in heard if m.row.startswith("base")] == [3, 4, 5, 6, 0]
    assert [m.steps for m in heard if m.row.startswith("layers")] == [0, 1, 2, 3, 4, 5, 6, 0]
    report = json.loads(out.read_text())
    assert report["complete"] is True
    assert (report["training_records"], report["held_out"]) == (20, {"0.0": 4, "0.7": 4, "1.0": 4})
    entries = report["variants"]
    assert list(entries) == ["base", "layers-mixed", "recompute-8"]
    assert all(set(entry) == FIELDS for entry in entries.values())
    base, mixed, late = entries.values()
    assert base["tau"]["mean"] > 1 and base["tokens_per_second"]["mean"] > 0
    assert base["kernels"]["target"] == base["kernels"]["heads"]
    assert mixed["kernels"] is None and mixed["tokens_per_second"] is None
    assert mixed["parameters"] > base["parameters"] == late["parameters"]
    assert late["over_base"]["tau"] == pytest.approx(late["tau"]["mean"] / base["tau"]["mean"], abs=1e-3)

    monkeypatch.setattr(RowMaker, "make", None)
    again = CliRunner().invoke(app, arguments(out, "--speed", "skip"))
    assert again.exit_code == 0, again.output
    assert json.loads(out.read_text())["variants"] == entries


@pytest.mark.slow
def test_worker_processes_make_the_same_rows(tmp_path: Path) -> None:
    taus = []
    for workers in ("1", "2"):
        out = tmp_path / f"{workers}.json"
        result = CliRunner().invoke(app, arguments(out, "--speed", "skip", "--workers", workers))
        assert result.exit_code == 0, result.output
        entries = json.loads(out.read_text())["variants"]
        taus.append({name: entry["tau"]["values"] for name, entry in entries.items()})
    assert taus[0] == taus[1]
