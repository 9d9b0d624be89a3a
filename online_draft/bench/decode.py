"""`bench decode`: methods of decoding compared on the same prompts, interleaved in one run."""

from __future__ import annotations

import json
import time
import zlib
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from online_draft.bench.progress import Bars
from online_draft.core import GenerationRequest, SamplingParams, SpeculationCounts
from online_draft.decoding.audit import compare_outputs
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.errors import ConfigError
from online_draft.models.artifact import load_drafter
from online_draft.models.embedded import DRAFTERS_DIR
from online_draft.models.loading import LoadedTarget, load_target
from online_draft.models.target import Target
from online_draft.training.prompts import Conversation, read_prompts

DEFAULT_PROMPTS = Path(__file__).parent / "prompts" / "default.jsonl"
METHODS = ("plain", "medusa", "amphista")
EMBEDDED_DRAFTERS = {"medusa": "medusa", "amphista": "baseline"}
"""The embedded target's drafter of each method."""


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Options of `bench decode`. `drafters` maps a method to a drafter directory other than the default."""

    target: str = "embedded"
    methods: tuple[str, ...] = METHODS
    drafters: dict[str, Path] = field(default_factory=dict)
    prompts: Path | None = None
    batch: int = 1
    max_new_tokens: int = 128
    limit: int | None = None
    temperature: float = 0.0
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    repeat: int = 3
    tree_nodes: int = 16
    json_path: Path | None = None


@dataclass(slots=True)
class MethodRun:
    """What one method did over all repeats."""

    engine: Engine
    speculate: bool
    counts: SpeculationCounts = field(default_factory=SpeculationCounts)
    tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    near_ties: int = 0
    changed: int = 0

    def report(self, plain: MethodRun | None) -> dict[str, Any]:
        """The method's entry in the JSON. Rates are medians over repeats, `spread` their range."""
        rates = sorted(n / s for n, s in zip(self.tokens, self.seconds, strict=True))
        speedup = None
        if plain is not None:
            pairs = zip(self.tokens, self.seconds, plain.tokens, plain.seconds, strict=True)
            speedup = _median(sorted(n / s / (pn / ps) for n, s, pn, ps in pairs))
        return {
            "tokens": sum(self.tokens),
            "seconds": round(sum(self.seconds), 3),
            "spread": [round(rates[0], 1), round(rates[-1], 1)],
            "tokens_per_second": round(_median(rates), 1),
            "mean_accepted_length": round(self.counts.committed / max(1, self.counts.steps), 3),
            "acceptance_by_depth": [
                round(a / t, 3) if t else None
                for a, t in zip(self.counts.accepted, self.counts.tried, strict=True)
            ],
            "speedup": None if speedup is None else round(speedup, 3),
            "changed_outputs": self.changed,
            "near_ties": self.near_ties,
        }


def run(options: DecodeOptions, console: Console | None = None) -> int:
    """Run the benchmark, print a table, write the JSON. Returns 1 if an output changed, else 0."""
    console = console or Console()
    report = measure(options, console)
    _print(report, console)
    if options.json_path is not None:
        options.json_path.parent.mkdir(parents=True, exist_ok=True)
        options.json_path.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if any(m["changed_outputs"] for m in report["methods"].values()) else 0


def measure(options: DecodeOptions, console: Console) -> dict[str, Any]:
    """Decode every prompt with every method, `repeat` times, in interleaved waves."""
    _check(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    loaded = load_target(options.target, device=options.device, dtype=getattr(torch, options.dtype))
    conversations = read_prompts(options.prompts or DEFAULT_PROMPTS, options.limit)
    runs = {method: _prepare(method, options, loaded) for method in options.methods}
    audit = _Audit(options, loaded)
    wave = max(8, 4 * options.batch)
    skipped = 0
    total, done = len(conversations) * options.repeat, 0
    with Bars(console) as bars:
        for repeat in range(-1, options.repeat):
            queue = deque(conversations if repeat >= 0 else conversations[: options.batch])
            for method_run in runs.values():
                method_run.tokens.append(0)
                method_run.seconds.append(0.0)
            while queue:
                batch = [queue.popleft() for _ in range(min(wave, len(queue)))]
                requests, kept = _requests(batch, loaded, options)
                skipped += len(batch) - len(kept)
                outputs = {}
                for method, method_run in runs.items():
                    outputs[method] = _decode(method_run, requests)
                done += len(batch) if repeat >= 0 else 0
                bars.update("prompts", min(done, total), total)
                audit.check(runs, requests, outputs, first=repeat == 0)
                answers = next(iter(outputs.values()))
                following = (c.after(_text(loaded, a)) for c, a in zip(kept, answers, strict=True))
                queue.extend(c for c in following if c is not None)
            if repeat < 0:
                _forget_warm_up(runs)
    plain = runs.get("plain")
    return {
        "target": loaded.name,
        "device": options.device,
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "batch": options.batch,
        "temperature": options.temperature,
        "prompts": len(conversations),
        "skipped": skipped,
        "repeat": options.repeat,
        "methods": {method: run.report(plain) for method, run in runs.items()},
    }


def _check(options: DecodeOptions) -> None:
    unknown = [m for m in options.methods if m not in METHODS]
    if unknown or not options.methods:
        raise ConfigError("methods", f"accepted are {', '.join(METHODS)}; got {', '.join(unknown) or 'none'}")
    if options.dtype not in ("float32", "float64", "bfloat16"):
        raise ConfigError("dtype", f"accepted are float32, float64, bfloat16; got {options.dtype}")
    for name in ("batch", "max_new_tokens", "repeat", "tree_nodes"):
        if getattr(options, name) < 1:
            raise ConfigError(name.replace("_", "-"), f"must be at least 1, got {getattr(options, name)}")
    if options.temperature < 0:
        raise ConfigError("temperature", f"must not be negative, got {options.temperature}")
    if options.limit is not None and options.limit < 1:
        raise ConfigError("limit", f"must be at least 1, got {options.limit}")


def _prepare(method: str, options: DecodeOptions, loaded: LoadedTarget) -> MethodRun:
    config = EngineConfig(
        max_sequences=options.batch,
        max_queue=max(8, 4 * options.batch),
        kv_tokens=options.batch * (loaded.config.max_position_embeddings + 64),
        tree_nodes=options.tree_nodes,
    )
    engine = Engine(loaded, config)
    if method != "plain":
        path = options.drafters.get(method)
        if path is None and options.target != "embedded":
            raise ConfigError("drafter", f"name the drafter to measure: --drafter {method}=DIR")
        path = path or DRAFTERS_DIR / EMBEDDED_DRAFTERS[method]
        engine.set_drafter(load_drafter(path, loaded.target, loaded.fingerprint), method)
    return MethodRun(engine, speculate=method != "plain")


def _requests(
    batch: list[Conversation], loaded: LoadedTarget, options: DecodeOptions
) -> tuple[list[GenerationRequest], list[Conversation]]:
    """Tokenised requests, and the conversations that fit the context (the others are skipped)."""
    requests: list[GenerationRequest] = []
    kept: list[Conversation] = []
    for conversation in batch:
        ids = conversation.token_ids(loaded.tokenizer)
        room = loaded.config.max_position_embeddings - len(ids)
        if room < 2:
            continue
        sampling = SamplingParams(
            temperature=options.temperature,
            max_tokens=min(options.max_new_tokens, room),
            seed=zlib.crc32(repr(ids).encode()),
        )
        requests.append(GenerationRequest(str(len(requests)), ids, sampling))
        kept.append(conversation)
    return requests, kept


def _decode(method_run: MethodRun, requests: list[GenerationRequest]) -> list[list[int]]:
    """Answer all requests, as many at a time as the engine takes; adds to the run's totals."""
    engine = method_run.engine
    outputs: dict[str, list[int]] = {r.request_id: [] for r in requests}
    begin = time.perf_counter()
    for request in requests:
        engine.add(replace(request, speculate=method_run.speculate))
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id].extend(output.token_ids)
            if output.counts is not None:
                method_run.counts.add(output.counts)
    method_run.seconds[-1] += time.perf_counter() - begin
    method_run.tokens[-1] += sum(len(tokens) for tokens in outputs.values())
    return [outputs[r.request_id] for r in requests]


def _forget_warm_up(runs: dict[str, MethodRun]) -> None:
    for method_run in runs.values():
        method_run.tokens.clear()
        method_run.seconds.clear()
        method_run.counts = SpeculationCounts()


def _text(loaded: LoadedTarget, ids: list[int]) -> str:
    return str(loaded.tokenizer.decode(ids, skip_special_tokens=True))


class _Audit:
    """Compares every method's outputs with plain decoding's, once per prompt."""

    def __init__(self, options: DecodeOptions, loaded: LoadedTarget) -> None:
        self._options = options
        self._loaded = loaded
        self._target64: Target | None = None

    def check(
        self,
        runs: dict[str, MethodRun],
        requests: list[GenerationRequest],
        outputs: dict[str, list[list[int]]],
        first: bool,
    ) -> None:
        """Count near-ties and changed outputs, in the first counted repeat only."""
        if not first or "plain" not in outputs:
            return
        for method, method_run in runs.items():
            for request, expected, actual in zip(requests, outputs["plain"], outputs[method], strict=True):
                if expected == actual:
                    continue
                difference = compare_outputs(self._copy(), request, expected, actual)
                method_run.near_ties += difference == "near_tie"
                method_run.changed += difference == "changed"

    def _copy(self) -> Target:
        if self._target64 is None:
            options = self._options
            self._target64 = load_target(options.target, device=options.device, dtype=torch.float64).target
        return self._target64


def _median(ordered: list[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _print(report: dict[str, Any], console: Console) -> None:
    title = (
        f"{report['target']} on {report['device']} ({report['threads']} threads, {report['dtype']}), "
        f"{report['prompts']} prompts, batch {report['batch']}, T = {report['temperature']}"
    )
    table = Table(title=title)
    for column in ("method", "τ", "tokens/s", "range", "speedup", "changed", "near ties"):
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for method, entry in report["methods"].items():
        table.add_row(
            method,
            f"{entry['mean_accepted_length']:.2f}",
            f"{entry['tokens_per_second']:.0f}",
            f"{entry['spread'][0]:.0f}–{entry['spread'][1]:.0f}",
            "–" if entry["speedup"] is None else f"{entry['speedup']:.2f}×",
            str(entry["changed_outputs"]),
            str(entry["near_ties"]),
        )
    console.print(table)
    for method, entry in report["methods"].items():
        if entry["acceptance_by_depth"]:
            depths = "  ".join("–" if a is None else f"{a:.2f}" for a in entry["acceptance_by_depth"])
            console.print(f"{method}: accepted by depth  {depths}")
