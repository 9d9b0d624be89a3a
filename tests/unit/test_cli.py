"""The commands' surface: names, exit codes, one-line errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from online_draft.cli import app
from online_draft.models.artifact import build_drafter, save_drafter

TARGET = "llama-0000000000000000-00000000"
Run = Callable[..., int]
DISTILL = ["distill", "--target", "nowhere/at/all", "--prompts", "none.jsonl", "--out", "out"]


def test_the_command_names_are_frozen() -> None:
    root = typer.main.get_command(app)
    groups = {name: sorted(getattr(command, "commands", {})) for name, command in root.commands.items()}  # type: ignore[attr-defined]
    assert groups == {
        "demo": [],
        "serve": [],
        "down": [],
        "doctor": [],
        "distill": [],
        "config": ["check", "show"],
        "keys": ["create", "list", "revoke"],
        "drafter": ["list", "pin", "promote", "prune", "push", "reject", "rollback", "show", "unpin"],
        "adapter": ["drop", "list", "load", "prune", "push", "show", "train"],
        "target": ["show", "update"],
        "learner": ["pause", "resume", "status"],
        "speculation": ["off", "on", "status"],
        "buffer": ["erase", "stats"],
        "bench": [
            "ablate",
            "adapters",
            "churn",
            "decode",
            "http",
            "interference",
            "load",
            "scale",
            "shift",
            "step",
            "swap",
        ],
    }


def test_help_of_every_command_renders() -> None:
    runner = CliRunner()
    for words in (
        [],
        ["serve"],
        ["demo"],
        ["distill"],
        ["bench", "decode"],
        ["bench", "load"],
        ["drafter", "promote"],
    ):
        assert runner.invoke(app, [*words, "--help"]).exit_code == 0


def test_a_command_imports_neither_torch_nor_ray_to_parse() -> None:
    code = (
        "import sys, online_draft.cli\n"
        "from online_draft.settings import load_settings\n"
        "load_settings({})\n"
        "import online_draft.serve.api.app, online_draft.serve.admin.routes, online_draft.launch\n"
        "print([name for name in ('torch', 'ray', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serve", "--set", "port=x"], "port"),
        (["serve", "--set", "engine.tree_nodes"], "KEY=VALUE"),
        (["serve", "--config", "nowhere.toml"], "nowhere.toml"),
        (["config", "check", "--set", "device=tpu"], "device"),
        (["drafter", "list"], "no system runs"),
        (["drafter", "list", "--offline"], "must hold one target"),
        (["learner", "status", "--url", "http://127.0.0.1:9"], "--admin-key"),
        (["learner", "status", "--url", "http://127.0.0.1:9", "--admin-key", "k"], "does not answer"),
        (["bench", "decode", "--drafter", "x"], "METHOD=DIR"),
        (["bench", "load", "--concurrency", "1,x"], "--concurrency"),
        (["bench", "load", "--trace", "nowhere.csv"], "nowhere.csv"),
        (["bench", "step", "--rows", "few"], "--rows"),
        ([*DISTILL, "--temperatures", "warm"], "--temperatures"),
        ([*DISTILL, "--size", "heads=3"], "--size"),
        ([*DISTILL, "--size", "num_heads=few"], "--size"),
        ([*DISTILL, "--dtype", "float16"], "dtype"),
        ([*DISTILL, "--device", "tpu9"], "device"),
        ([*DISTILL, "--loss", "mse"], "trainer.loss"),
        ([*DISTILL, "--ema", "1"], "trainer.ema"),
        ([*DISTILL, "--max-hours", "0"], "max_hours"),
        ([*DISTILL, "--methods", "eagle"], "methods"),
        (["bench", "step", "--random-init", "70b"], "random-init"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(
    run: Run, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert run(*arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and says in told
    assert len(told.strip().splitlines()) == 1


def test_config_show_prints_what_the_service_would_see(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "show", "--json", "--set", "engine.tree_nodes=5") == 0
    shown = json.loads(capsys.readouterr().out)["engine.tree_nodes"]
    assert (shown["value"], shown["source"]) == (5, "flag")


def test_down_with_nothing_running_says_so(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("down") == 0
    assert capsys.readouterr().out == "nothing runs\n"


def test_drafters_are_pushed_and_promoted_offline(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for seed, name in enumerate(("one", "two")):
        directory = tmp_path / name
        torch.manual_seed(seed)
        save_drafter(
            build_drafter("medusa", {"hidden_size": 4, "vocab_size": 9, "num_heads": 1}), directory, TARGET
        )
        assert run("drafter", "push", str(directory), "--name", name) == 0
        assert run("drafter", "promote", name, "--offline") == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[0] == "one"
    assert "It serves nobody" in told.err and "drafter promote one --offline" in told.err
    assert run("drafter", "rollback", "--offline", "--reason", "worse") == 0
    assert run("drafter", "prune") == 0
    capsys.readouterr()
    assert run("drafter", "list", "--offline") == 0
    listed = capsys.readouterr().out.splitlines()
    assert "100%  champion, baseline" in listed[0] and "champion" not in listed[1] and "%" not in listed[1]
    assert run("drafter", "show", "one", "--offline") == 0
    decisions = json.loads(capsys.readouterr().out)["decisions"]
    assert [(d["kind"], d["reason"]) for d in decisions] == [("promote", "by hand"), ("roll_back", "worse")]
