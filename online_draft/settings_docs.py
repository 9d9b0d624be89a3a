"""What every setting means, and where its value comes from. For `config show` and `config check`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import SettingsError

from online_draft.errors import ConfigError
from online_draft.settings import Layers, Settings, as_config_errors, load_settings, read_layers

MASKED = "********"

DOCS: Mapping[str, str] = {
    "access.keys_file": "File of API keys, watched while serving; by default keys.json in state_dir.",
    "access.keys": "Further API keys: entries as in that file, or bare SHA-256 digests of secrets.",
    "access.open": "Let everybody in without a key; for when something in front checks who comes.",
    "access.burst_s": "A limit per minute is a bucket; an idle key saves up this many seconds' worth.",
    "access.max_prompt_tokens": "Longest prompt, in tokens; by default what the model's context allows.",
    "access.max_n": "Most answers to one prompt.",
    "access.protect_metrics": "Ask for an admin key on /metrics.",
    "access.cors_origins": "Browsers of these origins may call the endpoint; none by default.",
    "log.level": "Least important lines that are kept: debug, info, warning, error.",
    "log.format": "text for eyes, json for machines: one object a line.",
    "log.file": "Where all processes log; by default service.log in state_dir.",
    "log.max_bytes": "The file is renamed when it is this long.",
    "log.backups": "So many renamed files are kept.",
    "engine.max_sequences": "Requests that run at the same time; further ones wait.",
    "engine.max_queue": "Requests that may wait; beyond it 503 with Retry-After.",
    "engine.max_context": "Longest prompt with its answer, in tokens; by default the target's.",
    "engine.kv_tokens": "Size of the KV cache, in tokens over all requests.",
    "engine.block_size": "Tokens of one KV block.",
    "engine.tree_nodes": "Nodes drafted per request and step; 0 turns speculation off.",
    "engine.tree_width": "How many of these may share a depth.",
    "engine.feature_window": "Hidden rows kept per request for the draft heads.",
    "engine.prefill_rows": "Prompt tokens per step while nothing decodes, at most.",
    "engine.prefill_rows_busy": "The same beside decoding requests, at least.",
    "engine.step_rows": "Rows of one step in all: roots, prompt tokens, tree nodes.",
    "engine.prefix_cache": "Requests of one tenant share the KV blocks of equal beginnings.",
    "engine.prefix_recompute": "Tokens computed anew after such a hit; the draft heads start from them.",
    "engine.memory_bytes": "Instead of kv_tokens: one budget for weights, draft heads, KV cache and steps.",
    "engine.drafter_share": "Part of that budget for draft heads.",
    "engine.learner_share": "Part of that budget for a learner on the same device.",
    "engine.speculation": "auto: as many nodes as pay, down to none; always: tree_nodes; off: none.",
    "engine.noise_ranked": "Trees of sampled requests follow the noise that chooses their tokens.",
    "engine.ngram": "Draft also what a request or its tenant wrote before.",
    "engine.max_adapters": "Adapters of the drafter ready at the same time; 0: none can be loaded.",
    "engine.adapter_rank": "Largest rank of an adapter.",
    "engine.kernels": "Compiled code: auto as soon as it is built, wait from the start, off.",
    "engine.threads": "Threads of compiled code; by default a probe finds them.",
    "buffer.max_queue": "Records that wait in memory for Redis, at most.",
    "buffer.maxlen": "Records kept in Redis, about.",
    "buffer.batch": "Records sent at once.",
    "buffer.publish_every_s": "Changed counts are published this often.",
    "buffer.publish_all_every_s": "All counts are published this often.",
    "buffer.first_backoff_s": "Pause after a first failure to write.",
    "buffer.last_backoff_s": "Longest pause between two tries.",
    "buffer.timeout_s": "How long a write may take.",
    "learner.mode": "idle: yields to serving; dedicated: never does; off: doesn't learn.",
    "learner.pace.idle_ms": "It works after this long without a request on any replica.",
    "learner.pace.slice_ms": "Longest piece of work between two looks at the load.",
    "learner.pace.max_batch": "Records in one step, at most.",
    "learner.pace.passes": "Passes over the records it has while no new ones come.",
    "learner.pace.poll_ms": "Pause between two looks while there is nothing to do.",
    "learner.pace.read_every_ms": "New records are read this often.",
    "learner.pace.checkpoint_every_s": "Work that a checkpoint may be behind, in seconds.",
    "learner.gate.every_slices": "Slices between two looks at the candidate, at least.",
    "learner.gate.min_records": "Held-out records that a look needs.",
    "learner.gate.min_new_records": "How many of them must be new since the last look.",
    "learner.gate.max_records": "Held-out records that a look replays, the newest.",
    "learner.gate.min_gain": "Gain that a candidate must show, as a part of the champion's τ.",
    "learner.gate.alpha": "Chance of a false pass while one champion serves, at most.",
    "learner.gate.resamples": "Resamples of the confidence bound.",
    "learner.gate.refuse_every_s": "Refusals enter the journal this far apart, at least.",
    "learner.reservoirs.recent": "Recent records kept per segment.",
    "learner.reservoirs.long_term": "Records sampled from all before, per segment.",
    "learner.reservoirs.held_out": "Records kept for judging, per segment.",
    "learner.reservoirs.recent_share": "Part of a training batch that is recent.",
    "learner.reservoirs.held_out_fraction": "Part of all records that is held out.",
    "learner.reservoirs.segments": "Segments kept; beyond it the one that rested longest goes.",
    "learner.reservoirs.remembered": "Digests kept to recognise duplicates.",
    "learner.reservoirs.seed": "Seed of the samples.",
    "learner.learning_rate": "Step size of training.",
    "learner.warmup_steps": "Steps up to the full learning rate.",
    "learner.anchors": "Positions of a record that one step trains on.",
    "learner.max_tokens": "Longest record; longer ones are cut.",
    "learner.ema": "Weight of the old average in the averaged heads.",
    "learner.seed": "Seed of training.",
    "control.enabled": "Whether anything is promoted, pruned or revived.",
    "control.poll_interval_s": "The journal is looked at this often.",
    "control.ping_every_s": "The learner is pinged this often.",
    "control.ping_timeout_s": "How long an answer may take.",
    "control.max_missed": "Missed answers after which the learner is started anew.",
    "control.keep_versions": "Newest versions kept on the store beside those in use.",
}
"""One line for each setting of a section whose dataclass lives beside its owner."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One value: its dotted name, the value (secrets masked), its source and its meaning."""

    name: str
    value: Any
    source: str
    doc: str


def explain(flags: Mapping[str, Any] | None = None, config: Path | None = None) -> list[Setting]:
    """Every setting as the service would see it. ConfigError as `load_settings`."""
    settings = load_settings(flags, config)
    layers = read_layers(flags, config)
    return [
        Setting(name, shown(name, value), _source(layers, name), doc)
        for name, value, doc in _leaves(settings, "")
    ]


def find_errors(flags: Mapping[str, Any] | None = None, config: Path | None = None) -> list[ConfigError]:
    """All that is wrong with the settings, each with its field and what that accepts; else empty."""
    try:
        load_settings(flags, config)
    except ConfigError as error:
        cause = error.__cause__
        if isinstance(cause, ValidationError):
            return [_with_hint(each) for each in as_config_errors(cause)]
        if isinstance(cause, SettingsError):
            return [ConfigError("environment", str(cause))]
        return [error]
    return []


def names() -> list[str]:
    """The dotted names of all settings."""
    return [name for name, _, _ in _leaves(Settings.model_construct(), "")]


def shown(name: str, value: Any) -> Any:
    """A value fit to be printed: plain data, no secret."""
    if isinstance(value, SecretStr):
        return MASKED
    if name == "access.keys":
        return [entry.get("name", "?") if isinstance(entry, Mapping) else MASKED for entry in value]
    if name == "redis.url" and isinstance(value, str):
        return re.sub(r"(//[^/@:]*):[^@]*@", rf"\1:{MASKED}@", value)
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _leaves(section: Any, prefix: str) -> Iterator[tuple[str, Any, str]]:
    docs: dict[str, str] = {}
    if isinstance(section, BaseModel):
        docs = {name: about.description or "" for name, about in type(section).model_fields.items()}
    elif is_dataclass(section):
        docs = {entry.name: "" for entry in fields(section)}
    for name, doc in docs.items():
        value, path = getattr(section, name), prefix + name
        if isinstance(value, BaseModel) or is_dataclass(value):
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value, " ".join((doc or DOCS.get(path, "")).split())


def _source(layers: Layers, name: str) -> str:
    path = name.split(".")
    for source, tree in layers:
        found: Any = tree
        for part in path:
            found = found.get(part) if isinstance(found, Mapping) else None
        if found is not None:
            return source
    return "default"


def _with_hint(error: ConfigError) -> ConfigError:
    """For a name that doesn't exist, the one that was meant, perhaps."""
    if "no such setting" not in str(error):
        return error
    close = difflib.get_close_matches(error.field, names(), 1)
    if not close:
        return error
    return ConfigError(error.field, f"there is no such setting; is {close[0]} meant?")
