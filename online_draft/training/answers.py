"""The target answers prompts; answers are kept as shards of token ids, so that an interrupted run goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.errors import ConfigError
from online_draft.models.loading import LoadedTarget
from online_draft.training.features import TokenRecord

SHARD_RECORDS = 128


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


def answer(
    loaded: LoadedTarget,
    prompts: Sequence[tuple[int, ...]],
    directory: Path,
    config: AnswerConfig,
    progress: Callable[[int, int], None],
) -> list[TokenRecord]:
    """Answer every prompt that fits the context, in the order of the prompts.

    Shards in `directory` (made for `answers_key`) are used again and damaged ones made again; new ones are
    written as answers finish. `progress(done, total)` is called after every step that finished an answer.
    """
    directory.mkdir(parents=True, exist_ok=True)
    done = _read_shards(directory)
    context = loaded.config.max_position_embeddings
    room = {index: min(config.max_new_tokens, context - len(ids)) for index, ids in enumerate(prompts)}
    wanted = [index for index, ids in enumerate(prompts) if ids and room[index] > 1]
    missing = [index for index in wanted if index not in done]
    progress(len(wanted) - len(missing), len(wanted))
    if missing:
        longest = max(len(prompts[index]) + room[index] for index in missing)
        rows = EngineConfig().prefill_rows
        sizes = EngineConfig(
            max_sequences=config.batch,
            max_queue=len(missing),
            kv_tokens=config.batch * (longest + 32),
            step_rows=config.batch + rows,
            prefill_rows_busy=rows,
            tree_nodes=0,
            feature_window=1,
            kernels="wait",
        )
        engine = Engine(loaded, sizes)
        for index in missing:
            sampling = SamplingParams(
                temperature=config.temperatures[index % len(config.temperatures)],
                max_tokens=room[index],
                seed=config.seed + index,
            )
            engine.add(GenerationRequest(str(index), prompts[index], sampling, speculate=False))
        _run(engine, prompts, directory, config, done, lambda: progress(len(done), len(wanted)))
    return [done[index] for index in wanted]


def _run(
    engine: Engine,
    prompts: Sequence[tuple[int, ...]],
    directory: Path,
    config: AnswerConfig,
    done: dict[int, TokenRecord],
    report: Callable[[], None],
) -> None:
    outputs: dict[int, list[int]] = {}
    fresh: list[int] = []
    try:
        while engine.has_work:
            before = len(fresh)
            for output in engine.step():
                index = int(output.request_id)
                outputs.setdefault(index, []).extend(output.token_ids)
                if output.finish_reason is not None:
                    temperature = config.temperatures[index % len(config.temperatures)]
                    answered = tuple(outputs.pop(index))
                    done[index] = TokenRecord(prompts[index], answered, temperature, seed=config.seed + index)
                    fresh.append(index)
            if len(fresh) > before:
                report()
            if len(fresh) >= SHARD_RECORDS:
                _write_shard(directory, {index: done[index] for index in fresh})
                fresh.clear()
    finally:
        if fresh:
            _write_shard(directory, {index: done[index] for index in fresh})


def _write_shard(directory: Path, records: dict[int, TokenRecord]) -> None:
    """One safetensors file, named after its first record, complete or not there."""
    tokens = [token for record in records.values() for token in (*record.prompt_ids, *record.output_ids)]
    tensors = {
        "index": torch.tensor(list(records)),
        "tokens": torch.tensor(tokens, dtype=torch.int32),
        "prompt_lengths": torch.tensor([len(record.prompt_ids) for record in records.values()]),
        "output_lengths": torch.tensor([len(record.output_ids) for record in records.values()]),
        "temperatures": torch.tensor(
            [record.temperature for record in records.values()], dtype=torch.float64
        ),
        "seeds": torch.tensor([record.seed for record in records.values()]),
    }
    path = directory / f"shard-{next(iter(records)):08d}.safetensors"
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    save_file(tensors, temporary)
    os.replace(temporary, path)


def _read_shards(directory: Path) -> dict[int, TokenRecord]:
    """All records on disk by prompt index; unreadable shards are left out."""
    records: dict[int, TokenRecord] = {}
    for path in sorted(directory.glob("shard-*.safetensors")):
        try:
            columns = {name: tensor.tolist() for name, tensor in load_file(path).items()}
            tokens, at = columns["tokens"], 0
            for index, prompt, output, temperature, seed in zip(
                columns["index"],
                columns["prompt_lengths"],
                columns["output_lengths"],
                columns["temperatures"],
                columns["seeds"],
                strict=True,
            ):
                split, end = at + prompt, at + prompt + output
                records[index] = TokenRecord(
                    tuple(tokens[at:split]), tuple(tokens[split:end]), temperature, seed=seed
                )
                at = end
        except (SafetensorError, KeyError, ValueError):
            path.unlink()
    return records
