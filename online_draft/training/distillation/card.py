"""What is written beside a drafter's weights: a card for people, an evaluation for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

import online_draft
from online_draft.training.features import TokenRecord
from online_draft.training.replay import ReplayResult, mean_accepted_length

EVALUATION_FILE = "evaluation.json"
CARD_FILE = "README.md"


def versions() -> dict[str, str]:
    """Of this package and of what it computed with."""
    return {
        "online_draft": online_draft.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def evaluate(
    records: Sequence[TokenRecord],
    results: Sequence[ReplayResult],
    nodes: int,
    looks: Sequence[tuple[int, float]],
) -> dict[str, Any]:
    """Replayed acceptance as counts, with τ of all records and by temperature, and training's (step, τ)."""
    heads = max((len(result.tried) for result in results), default=0)
    by_temperature: dict[float, list[ReplayResult]] = {}
    for record, result in zip(records, results, strict=True):
        by_temperature.setdefault(record.temperature, []).append(result)
    return {
        "tau": mean_accepted_length(results),
        "nodes": nodes,
        "records": len(results),
        "steps": sum(result.steps for result in results),
        "committed": sum(result.committed for result in results),
        "tried": [sum(result.tried[depth] for result in results) for depth in range(heads)],
        "accepted": [sum(result.accepted[depth] for result in results) for depth in range(heads)],
        "tau_by_temperature": {
            str(temperature): mean_accepted_length(some)
            for temperature, some in sorted(by_temperature.items())
        },
        "looks": [{"step": step, "tau": tau} for step, tau in looks],
    }


def write_card(directory: Path, target: str, manifest: dict[str, Any], evaluation: dict[str, Any]) -> None:
    """`evaluation.json` and `README.md`, each replaced at once."""
    _replace(directory / EVALUATION_FILE, json.dumps(evaluation, indent=2) + "\n")
    _replace(directory / CARD_FILE, _card(directory.name, target, manifest, evaluation))


def _card(name: str, target: str, manifest: dict[str, Any], evaluation: dict[str, Any]) -> str:
    origin, config = manifest["provenance"], manifest["config"]
    answers, records = origin["answers"], evaluation["records"]
    scored = config.get("draft_vocab_size") or config["vocab_size"]
    temperatures = ", ".join(str(value) for value in answers["temperatures"])
    taus = [f"| {heat} | {tau:.2f} |" for heat, tau in evaluation["tau_by_temperature"].items()]
    rows = {
        "heads": f"{config['num_heads']}, scoring {scored:,} of {config['vocab_size']:,} tokens",
        "trained": f"{origin['steps']:,} updates on {origin['records']['train']:,} answers of the target "
        f"({origin['tokens']:,} tokens)",
        "answers": f"temperatures {temperatures}; at most {answers['max_new_tokens']} tokens each",
        "τ": f"{evaluation['tau']:.2f} tokens a step, replayed on {records} held-out answers, "
        f"{evaluation['nodes']} nodes a tree",
    }
    lines = [
        f"# {manifest['kind'].capitalize()} draft heads for {target}",
        "",
        "Draft heads for speculative decoding with `online-draft`. They guess tokens that the target then",
        "checks, so they change its speed and never its output. They fit one target only, the one with",
        f"fingerprint `{manifest['target']}`.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {label} | {text} |" for label, text in rows.items()),
        "",
        "| temperature | τ |",
        "|---|---|",
        *taus,
        "",
        f"Made by `online-draft distill` {origin['versions']['online_draft']}. All options, the prompts'",
        f"checksums and the counts behind τ are in `manifest.json` and `{EVALUATION_FILE}`.",
        "",
        f"    online-draft drafter push {name}",
    ]
    return "\n".join(lines) + "\n"


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
