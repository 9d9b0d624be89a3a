"""What every setting means, and where its value comes from. For `config show` and `config check`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import SettingsError

from online_draft.errors import ConfigError
from online_draft.settings import Layers, Settings, as_config_errors, load_settings, read_layers
from online_draft.settings_models import FIELDS
from online_draft.store.connection import without_password

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
    "scaling.ingresses": "Processes that speak HTTP.",
    "scaling.max_ingresses": "With more than ingresses, some are added while there are many requests.",
    "scaling.max_replicas": "With more than replicas, some are added while engines are busy.",
    "scaling.target_pressure": "How busy they are kept: requests over slots, or the share of KV in use.",
    "scaling.streams_per_ingress": "Requests at a time for which an ingress is added.",
    "scaling.upscale_delay_s": "How long more must be wanted before more are started.",
    "scaling.downscale_delay_s": "How long fewer must do before some are ended.",
    "scaling.drain_s": "How long those may finish what they have; then it goes on elsewhere.",
    "scaling.resume_s": "How long a request waits for a replica when there is none.",
    "scaling.fetch_spread_s": "Replicas fetch a new version at a random moment within this time.",
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
    "buffer.tenant_per_minute": "Records of one tenant taken per replica and minute; 0: all.",
    "buffer.batch": "Records sent at once.",
    "buffer.publish_every_s": "Changed counts are published this often.",
    "buffer.publish_all_every_s": "All counts are published this often.",
    "buffer.first_backoff_s": "Pause after a first failure to write.",
    "buffer.last_backoff_s": "Longest pause between two tries.",
    "buffer.timeout_s": "How long a write may take.",
    "learner.mode": "idle: yields to serving; dedicated: never does; off: doesn't learn.",
    "learner.features": "Hidden states to learn from: local (a copy of the target), replica (idle ones).",
    "learner.pace.idle_ms": "It works after this long without a request on any replica.",
    "learner.pace.slice_ms": "Longest piece of work without a look at the load; by default 50 on CUDA, 200.",
    "learner.pace.floor_share": "Part of the time that a busy service leaves the learner.",
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
    "learner.gate.segment_records": "Held-out records with which a segment or tenant can block a candidate.",
    "learner.gate.segment_loss": "Loss that it must show to do so, as a part of the champion's τ.",
    "learner.gate.segment_alpha": "Chance of blocking without a loss, for each segment.",
    "learner.gate.guard_records": "Held-out records replayed for each segment before a proposal.",
    "learner.gate.refuse_every_s": "Refusals enter the journal this far apart, at least.",
    "learner.rate.boost": "Factor of the learning rate after the traffic drifted.",
    "learner.rate.boost_updates": "Updates for which it lasts.",
    "learner.rate.surprise": "A loss this many times its average counts as drift.",
    "learner.rate.half_life": "Updates after which the learning rate is halved while all is quiet.",
    "learner.rate.floor": "Smallest factor of the learning rate.",
    "learner.reservoirs.recent": "Recent records kept per segment.",
    "learner.reservoirs.long_term": "Records sampled from all before, per segment.",
    "learner.reservoirs.held_out": "Records kept for judging, per segment.",
    "learner.reservoirs.hard": "Records with the lowest acceptance kept, per segment.",
    "learner.reservoirs.hard_window": "Of so many of the last training records they are the hardest.",
    "learner.reservoirs.anchors": "First records of a segment kept for good: to train on, and to judge by.",
    "learner.reservoirs.recent_share": "Part of a training batch that is recent.",
    "learner.reservoirs.hard_share": "Part that is hard.",
    "learner.reservoirs.anchor_share": "Part that is anchors; what the three leave is long-term.",
    "learner.reservoirs.tenant_cap": "Part that one tenant may have while others have enough.",
    "learner.reservoirs.repeats": "Records kept with equal prompts, or with equal answers, of one tenant.",
    "learner.reservoirs.held_out_fraction": "Part of all records that is held out.",
    "learner.reservoirs.segments": "Segments kept; beyond it the one that rested longest goes.",
    "learner.reservoirs.remembered": "Digests kept to recognise duplicates.",
    "learner.reservoirs.seed": "Seed of the samples.",
    "learner.adapters.mode": "A former champion's: regate (kept or dropped), rebuild (or made anew), off.",
    "learner.adapters.min_training": "Records of its segment that making one anew needs.",
    "learner.adapters.steps": "Slices that one learns for.",
    "learner.adapters.rank": "Its rank; at most engine.adapter_rank.",
    "learner.adapters.learning_rate": "Step size of its training.",
    "learner.learning_rate": "Step size of training.",
    "learner.warmup_steps": "Steps up to the full learning rate.",
    "learner.anchors": "Positions of a record that one step trains on.",
    "learner.max_tokens": "Longest record; longer ones are cut.",
    "learner.ema": "Weight of the old average in the averaged heads.",
    "learner.trim": "Part of a step's positions that may be left out as outliers.",
    "learner.leash": "How far weights may move from the champion's, in norms of those; 0: no bound.",
    "learner.max_bad_updates": "Updates in a row that may be not finite before weights go back.",
    "learner.seed": "Seed of training.",
    "learner.gpu_memory_mb": "Memory of a GPU that the learner may take; by default no bound.",
    "control.enabled": "Whether anything is promoted, pruned or revived.",
    "control.poll_interval_s": "The journal is looked at this often.",
    "control.ping_every_s": "The learner is pinged this often.",
    "control.ping_timeout_s": "How long an answer may take.",
    "control.max_missed": "Missed answers after which the learner is started anew.",
    "control.keep_versions": "Newest versions kept on the store beside those in use.",
    "control.canary_share": "Part of the sequences that a candidate drafts for before promotion; 0: none.",
    "control.canary_requests": "So many of its requests decide.",
    "control.canary_max_s": "How long a canary lasts at most, in seconds.",
    "control.canary_timeout": "After that with fewer requests: promote on the gate's evidence, or refuse.",
    "control.watch_share": "Part of the sequences that the former champion keeps after a promotion; 0: none.",
    "control.watch_s": "For so long the champion is compared with it and rolled back if it is worse.",
    "control.watch_min_s": "The same if the next candidate waits already.",
    "control.worse_alpha": "Chance that a version that is no worse is found worse, per canary or watch.",
    "control.worse_by": "Least loss that counts, as a part of τ.",
    "control.worse_requests": "Requests in each arm without which nothing is found worse.",
    "control.stale_after_s": "A replica with other versions than decided for so long raises an alarm.",
    "control.stalled_after_s": "A learner that gets on with nothing for so long raises an alarm.",
    "control.lag_records": "So does one that has yet to read more records than that.",
    "control.drift.delta": "Chance that a drift alarm is raised by chance, for each window of samples.",
    "control.drift.window": "Samples of a segment in which a change is looked for: 64 to 2048.",
    "control.drift.min_side": "Of them at least so many before and after a change.",
    "control.drift.min_samples": "Samples before and after a change that its cause is read from, at least.",
    "control.drift.min_fall": "Acceptance has fallen if it is lower by this much, from 0 to 1.",
    "control.drift.min_rise": "The target's entropy has risen if it is higher by this part.",
    "control.drift.settle": "Samples since the change after which an alarm names its cause.",
    "control.drift.hold_s": "An alarm ends when acceptance is back, or after so long.",
    "control.drift.fresh_s": "Without a sample for so long nothing is known of a segment.",
    "control.drift.every_s": "New samples are looked at this often.",
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
    found = [
        Setting(name, shown(name, value), _source(layers, name.split(".")), doc)
        for name, value, doc in _leaves(settings, "")
    ]
    return found + list(_explain_models(settings, layers, {each.name: each for each in found}))


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
    if name == "models":
        return [entry.name for entry in value]
    if name == "access.keys":
        return [entry.get("name", "?") if isinstance(entry, Mapping) else MASKED for entry in value]
    if name.startswith("redis.") and name.endswith("url") and isinstance(value, str):
        return without_password(value)
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


def _explain_models(settings: Settings, layers: Layers, general: Mapping[str, Setting]) -> Iterator[Setting]:
    """Of each model: its names, its settings that are no section, and of sections what it gives itself."""
    source = _source(layers, ["models"])
    for entry, model in zip(settings.models, settings.each, strict=False):
        prefix = f"models.{entry.name}."
        yield Setting(f"{prefix}aliases", list(entry.aliases), source, general["aliases"].doc)
        given = [".".join(path) for path in entry.leaves()]
        for name in dict.fromkeys([*(name for name in FIELDS if name in general), *given]):
            about = general[name]
            value = shown(name, attrgetter(name)(model))
            yield Setting(prefix + name, value, source if name in given else about.source, about.doc)


def _source(layers: Layers, path: Sequence[str]) -> str:
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
