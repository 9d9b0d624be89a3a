"""Checks of what a service keeps, for instance after a copy was restored. `online-draft doctor --state`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path

import redis

from online_draft.buffer.books import read_books, total
from online_draft.buffer.erasures import ErasureLog
from online_draft.buffer.reservoirs import Reservoirs
from online_draft.doctor import Finding
from online_draft.errors import ArtifactError, ConfigError, JournalError, StoreError
from online_draft.learner.checkpoint import CheckpointStore
from online_draft.registry.adapters import AdapterRegistry
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import DecisionJournal
from online_draft.registry.ladder import LadderState, fold
from online_draft.registry.target_line import TargetLine, has_copy, origins
from online_draft.serve.access.key_file import read_keys
from online_draft.settings import Settings
from online_draft.store import ArtifactStore, RedisKeys, connect_redis
from online_draft.store.connection import without_password

_COPY_AGAIN = "restore it from another copy"


def examine(settings: Settings) -> Iterator[Finding]:
    """Of every model: journal, versions in use, adapters, checkpoint, and the records in a Redis of yours;
    then the API keys. Reads all files that are in use; changes nothing."""
    models = {model.realm: model for model in (*settings.each, *settings.further)}
    for model in models.values():
        about = f" of {model.served_name}" if len(models) > 1 else ""
        for finding in _examine_model(model):
            yield replace(finding, name=finding.name + about)
    yield check_keys(settings.keys_file)


def _examine_model(settings: Settings) -> Iterator[Finding]:
    yield from _examine_artifacts(settings.artifacts)
    if settings.redis.url is not None:
        url = settings.redis.learner_url or settings.redis.url
        yield check_records(url, RedisKeys(settings.redis.prefix, settings.realm))


def _examine_artifacts(root: str) -> Iterator[Finding]:
    if "://" not in root and not Path(root).is_dir():
        yield Finding("warn", "journal", f"{root} does not exist: nothing was decided", "is state_dir right?")
        return
    try:
        store = ArtifactStore(root)
        lines = origins(store)
    except (StoreError, JournalError) as error:
        yield Finding("fail", "journal", str(error), _COPY_AGAIN)
        return
    if not lines:
        yield Finding("warn", "journal", f"none in {root}: nothing was decided")
    for origin in lines:
        yield from _examine_target(store, origin)


def _examine_target(store: ArtifactStore, origin: str) -> Iterator[Finding]:
    try:
        fingerprint = TargetLine(store, origin).current()
        decisions = DecisionJournal(store, fingerprint).read()
        state = fold(decisions)
    except (StoreError, JournalError) as error:
        yield Finding("fail", "journal", str(error), _COPY_AGAIN)
        return
    at = f", the last at {_utc(decisions[-1].at_ms)}" if decisions else ""
    yield Finding("ok", "journal", f"{fingerprint}: {state.seq} decisions{at}; champion {state.champion}")
    if fingerprint != origin and not has_copy(store, fingerprint):
        yield Finding("fail", "target", f"its update to {fingerprint} is not in {store.root}", _COPY_AGAIN)
    yield check_versions(DrafterRegistry(store, fingerprint), state)
    if state.adapters_in_use:
        yield check_adapters(AdapterRegistry(store, fingerprint), state)
    yield check_checkpoint(store, fingerprint)


def check_versions(registry: DrafterRegistry, state: LadderState) -> Finding:
    """The files of all versions that play a role are complete and as they were; fails for the champion's."""
    flaws = _flaws(registry.verify, state.in_use)
    if not flaws:
        return Finding("ok", "versions", f"{len(state.in_use)} in use, intact")
    detail = "; ".join(flaws.values())
    if state.champion in flaws:
        return Finding("fail", "versions", f"the champion: {detail}", f"{_COPY_AGAIN}, or promote another")
    return Finding("warn", "versions", detail, "the champion is intact; nobody can go back to these")


def check_adapters(registry: AdapterRegistry, state: LadderState) -> Finding:
    """The same of adapters, without which segments draft with the champion alone."""
    flaws = _flaws(registry.verify, state.adapters_in_use)
    if not flaws:
        return Finding("ok", "adapters", f"{len(state.adapters_in_use)} in use, intact")
    return Finding("warn", "adapters", "; ".join(flaws.values()), f"{_COPY_AGAIN}, or push them again")


def check_checkpoint(store: ArtifactStore, fingerprint: str) -> Finding:
    """What the learner would go on from: records in its reservoirs, and requests to erase still to honour."""
    try:
        checkpoint, problems = CheckpointStore(store, fingerprint).load()
        asked = ErasureLog(store).last()
        if checkpoint is None:
            anew = "the learner starts anew"
            if problems:
                return Finding("warn", "checkpoint", f"{'; '.join(problems)}; {anew}", _COPY_AGAIN)
            return Finding("ok", "checkpoint", f"none: {anew}")
        kept = Reservoirs.from_bytes(checkpoint.reservoirs, opening=None).sizes()
    except (StoreError, ValueError, KeyError, TypeError) as error:
        return Finding("warn", "checkpoint", f"{error}: the learner starts anew", _COPY_AGAIN)
    records = sum(max(rooms["recent"], rooms["long_term"]) + rooms["held_out"] for rooms in kept.values())
    detail = f"{records} records of {len(kept)} segments, {checkpoint.progress['total']['slices']} slices"
    waiting = asked - int(checkpoint.progress.get("erased", 0))
    if waiting > 0:
        detail += f"; {waiting} requests to erase are honoured at the start"
    if problems:
        return Finding("warn", "checkpoint", f"{detail}; {'; '.join(problems)}", "an older one is used")
    return Finding("ok", "checkpoint", detail)


def check_records(url: str, keys: RedisKeys) -> Finding:
    """What the learner will read from this Redis, and what writers had not stored."""
    client = connect_redis(url)
    try:
        length = client.xlen(keys.records)
        groups = client.xinfo_groups(keys.records) if length else []
        books = total(read_books(client, keys))
    except (redis.RedisError, OSError, StoreError) as error:
        return Finding("fail", "records", f"{without_password(url)}: {error}", "start that Redis")
    finally:
        client.close()
    pending = sum(int(group["pending"]) for group in groups if group["name"] == keys.learner_group.encode())
    detail = f"{length} in the stream, {pending} of them read and in no checkpoint; stored so far "
    detail += f"{books.stored}, {books.spooled} waited in replicas"
    return Finding("ok", "records", detail)


def check_keys(file: Path) -> Finding:
    """The file of API keys can be read, by its owner alone."""
    try:
        keys = read_keys(file)
    except FileNotFoundError:
        return Finding("ok", "keys", f"no {file}")
    except ConfigError as error:
        return Finding("fail", "keys", str(error), _COPY_AGAIN)
    if file.stat().st_mode & 0o077:
        return Finding("warn", "keys", f"{file} can be read by others", f"chmod 600 {file}")
    return Finding("ok", "keys", f"{len(keys)} in {file}")


def _flaws(verify: Callable[[str], object], names: Collection[str]) -> dict[str, str]:
    """Why some can't be used, by name."""
    flaws = {}
    for name in sorted(names):
        try:
            verify(name)
        except (ArtifactError, StoreError) as error:
            flaws[name] = str(error)
    return flaws


def _utc(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at_ms / 1000))
