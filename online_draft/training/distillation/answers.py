"""The target answers prompts; answers are kept as shards of token ids, so that an interrupted run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.errors import ConfigError
from online_draft.models.loading import LoadedTarget
from online_draft.training.distillation.shards import AnswerShards
from online_draft.training.features import TokenRecord

SHARD_RECORDS = 128
_AHEAD = 2
"""Requests in the engine for each that decodes, so that it never waits for more."""


@dataclass(frozen=True, slots=True)
class AnswerConfig:
    """How prompts are answered. Prompt i is sampled at `temperatures[i % len]` with seed `seed + i`."""

    max_new_tokens: int = 128
    temperatures: tuple[float, ...] = (0.0,)
    seed: int = 0
    batch: int = 32

    def __post_init__(self) -> None:
        if not self.temperatures or min(self.temperatures) < 0:
            raise ConfigError("temperatures", f"must be numbers of at least 0, got {self.temperatures}")
        for name in ("max_new_tokens", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be at least 1, got {getattr(self, name)}")


def answers_key(fingerprint: str, prompts: Sequence[tuple[int, ...]], config: AnswerConfig) -> str:
    """Names a set of answers: equal for the same target, prompts and settings (16 hex digits)."""
    settings = [fingerprint, config.max_new_tokens, config.temperatures, config.seed]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for prompt in prompts:
        digest.update(json.dumps(prompt).encode())
    return digest.hexdigest()[:16]


def answer_options(
    fingerprint: str, prompts: Sequence[tuple[int, ...]], config: AnswerConfig
) -> dict[str, Any]:
    """What answers depend on, by name: as kept beside them and compared when they are used again."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(json.dumps(prompt).encode())
    return {
        "target": fingerprint,
        "prompts": digest.hexdigest()[:16],
        "max_new_tokens": config.max_new_tokens,
        "temperatures": list(config.temperatures),
        "seed": config.seed,
    }


def answer(
    loaded: LoadedTarget,
    prompts: Sequence[tuple[int, ...]],
    directory: Path,
    config: AnswerConfig,
    progress: Callable[[int, int], None],
) -> list[TokenRecord]:
    """Answer every prompt that fits the context, in the order of the prompts; all records in memory.

    Shards in `directory` are used again and damaged ones made again; new ones are written as answers finish.
    `progress(done, total)` is called after every step that finished an answer. Errors as `make_answers`.
    """
    shards = make_answers(loaded, prompts, directory, config, progress)
    return [shards.read(number) for number in shards.numbers()]


def make_answers(
    loaded: LoadedTarget,
    prompts: Sequence[tuple[int, ...]],
    directory: Path,
    config: AnswerConfig,
    progress: Callable[[int, int], None],
    stop: Callable[[], object] = lambda: None,
) -> AnswerShards:
    """As `answer`, but records stay on disk. Ends early, with what is finished, once `stop()` is true.

    ConfigError naming the option when `directory` holds answers of another target, of other prompts or made
    with other settings.
    """
    shards = AnswerShards(directory, answer_options(loaded.fingerprint, prompts, config))
    room = [_room(loaded, ids, config) for ids in prompts]
    wanted = sum(tokens > 1 for tokens in room)
    missing = [number for number, tokens in enumerate(room) if tokens > 1 and number not in shards]
    progress(wanted - len(missing), wanted)
    if missing and not stop():
        longest = max(len(prompts[number]) + room[number] for number in missing)
        engine = Engine(loaded, _engine_config(config, longest))
        _run(engine, prompts, room, missing, shards, config, lambda done: progress(done, wanted), stop)
    return shards


def _room(loaded: LoadedTarget, ids: tuple[int, ...], config: AnswerConfig) -> int:
    """Tokens that an answer may have; 0 where there is nothing to answer."""
    return min(config.max_new_tokens, loaded.config.max_position_embeddings - len(ids)) if ids else 0


def _engine_config(config: AnswerConfig, longest: int) -> EngineConfig:
    rows = EngineConfig().prefill_rows
    return EngineConfig(
        max_sequences=config.batch,
        max_queue=_AHEAD * config.batch,
        kv_tokens=config.batch * (longest + 32),
        step_rows=config.batch + rows,
        prefill_rows_busy=rows,
        tree_nodes=0,
        feature_window=1,
        kernels="wait",
    )


def _run(
    engine: Engine,
    prompts: Sequence[tuple[int, ...]],
    room: Sequence[int],
    missing: Sequence[int],
    shards: AnswerShards,
    config: AnswerConfig,
    report: Callable[[int], None],
    stop: Callable[[], object],
) -> None:
    outputs: dict[int, list[int]] = {}
    fresh: dict[int, TokenRecord] = {}
    waiting = iter(missing)

    def add_next() -> None:
        for number in waiting:
            sampling = SamplingParams(
                temperature=config.temperatures[number % len(config.temperatures)],
                max_tokens=room[number],
                seed=config.seed + number,
            )
            outputs[number] = []
            engine.add(GenerationRequest(str(number), prompts[number], sampling, speculate=False))
            return

    for _ in range(_AHEAD * config.batch):
        add_next()
    try:
        while engine.has_work and not stop():
            before = len(fresh)
            for output in engine.step():
                number = int(output.request_id)
                outputs[number].extend(output.token_ids)
                if output.finish_reason is not None:
                    temperature = config.temperatures[number % len(config.temperatures)]
                    answered = tuple(outputs.pop(number))
                    fresh[number] = TokenRecord(
                        prompts[number], answered, temperature, seed=config.seed + number
                    )
                    add_next()
            if len(fresh) > before:
                report(len(shards) + len(fresh))
            if len(fresh) >= SHARD_RECORDS:
                shards.write(fresh)
                fresh = {}
    finally:
        if fresh:
            shards.write(fresh)
