"""Names that users type and scripts read. Adding one is fine, renaming or losing one is a breaking change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from online_draft.cli import app

COMMANDS = {
    *("demo", "serve", "down", "doctor", "distill"),
    *("config show", "config check"),
    *("keys create", "keys list", "keys revoke"),
    *("drafter list", "drafter show", "drafter push", "drafter promote", "drafter reject"),
    *("drafter rollback", "drafter pin", "drafter unpin", "drafter prune"),
    *("learner status", "learner pause", "learner resume"),
    *("speculation status", "speculation on", "speculation off"),
    *("adapter train", "adapter show", "adapter list", "adapter push", "adapter load", "adapter drop"),
    "adapter prune",
    *("target show", "target update"),
    *("buffer stats", "buffer erase"),
    *("bench adapters", "bench churn", "bench http", "bench swap", "bench interference"),
    *("bench ablate", "bench decode", "bench load", "bench scale", "bench shift", "bench step"),
}

OPTIONS = {
    "demo": {"--minutes", "--keep", "--json"},
    "serve": {"--config", "--target", "--host", "--port", "--state-dir", "--tls-cert", "--tls-key"},
    "config show": {"--config", "--set", "--json"},
    "keys create": {
        *("--tenant", "--priority", "--learn", "--admin", "--requests-per-minute", "--tokens-per-minute"),
        *("--max-streams", "--models", "--file", "--state-dir"),
    },
    "target update": {"--reason", "--drain-s", "--state-dir", "--url", "--admin-key", "--model"},
    "buffer stats": {"--json", "--state-dir", "--url", "--admin-key", "--model"},
    "buffer erase": {"--tenant", "--json", "--state-dir", "--url", "--admin-key", "--offline"},
    "distill": {"--target", "--prompts", "--out"},
    "adapter train": {
        *("--segment", "--prompts", "--out", "--target", "--rank", "--steps", "--minutes", "--json"),
    },
    "adapter load": {"--reason", "--offline", "--model"},
    "adapter drop": {"--reason", "--offline", "--model"},
    "drafter promote": {"--offline", "--model"},
    "drafter rollback": {"--offline", "--model"},
    "bench ablate": {
        *("--target", "--variants", "--preset", "--seeds", "--steps", "--prompts", "--answers", "--workers"),
        *("--max-hours", "--json"),
    },
    "bench churn": {"--minutes", "--clients", "--sequences", "--queue", "--warm-up", "--json"},
    "bench http": {
        *("--target", "--drafter", "--batch", "--requests", "--repeat", "--threads", "--cores", "--json"),
    },
    "doctor": {"--config", "--state-dir", "--url", "--admin-key-env", "--state"},
    "speculation off": {"--reason", "--url", "--admin-key", "--model"},
    "bench decode": {
        *("--target", "--methods", "--prompts", "--batch", "--max-new-tokens", "--limit", "--temperature"),
        *("--device", "--dtype", "--threads", "--repeat", "--json", "--speculation", "--kernels"),
        "--noise-ranked",
    },
    "bench load": {
        *("--target", "--drafter", "--concurrency", "--prompts", "--requests", "--max-new-tokens"),
        *("--temperature", "--trace", "--speedup", "--long-prompt", "--speculation", "--kernels"),
        *("--device", "--dtype", "--threads", "--repeat", "--json"),
    },
    "bench scale": {
        *("--replicas", "--seconds", "--rate", "--tokens", "--swaps", "--spread", "--size", "--json"),
    },
    "bench swap": {
        *("--target", "--drafter", "--other", "--swaps", "--streams", "--threads", "--kernels", "--json"),
    },
    "bench interference": {
        *("--target", "--drafter", "--repeat", "--bursts", "--burst", "--pause", "--floor-share"),
        *("--threads", "--kernels", "--json"),
    },
    "bench shift": {
        *("--json", "--order", "--requests-per-segment", "--simulate", "--phases", "--ceiling", "--window"),
        *("--drafter", "--slices", "--rate", "--temperature", "--seed", "--threads", "--kernels"),
    },
    "bench step": {
        *("--target", "--drafter", "--random-init", "--layers", "--rows", "--batch", "--context"),
        *("--device", "--dtype", "--threads", "--repeat", "--json", "--kernels"),
    },
}


def commands(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All commands below `command` by their full names; groups only through what is in them."""
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, inner in command.commands.items():
        yield from commands(inner, f"{path} {name}".strip())


@pytest.fixture
def surface() -> dict[str, Any]:
    return dict(commands(get_command(app)))


def test_the_commands_are_these(surface: dict[str, Any]) -> None:
    assert set(surface) == COMMANDS


@pytest.mark.parametrize("name", OPTIONS)
def test_documented_options_are_there(name: str, surface: dict[str, Any]) -> None:
    given = {option for parameter in surface[name].params for option in parameter.opts}
    assert given >= OPTIONS[name]


def test_every_command_says_what_it_does(surface: dict[str, Any]) -> None:
    assert [name for name, command in surface.items() if not command.help] == []
