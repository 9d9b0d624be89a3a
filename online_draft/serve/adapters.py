"""Brings the adapters that the journal decided on into the engine, beside the champion that is their base."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from online_draft.errors import ArtifactError, ConfigError, EngineDead, StoreError
from online_draft.models.adapters.files import read_adapter
from online_draft.registry.adapters import AdapterRegistry

if TYPE_CHECKING:
    from online_draft.decoding.engine import Engine
    from online_draft.models.adapters.adapter import Adapter
    from online_draft.registry.ladder import LadderState
    from online_draft.serve.engine_thread import EngineThread

logger = logging.getLogger(__name__)

RETRY_BAD_S = 30.0
"""How long an adapter that could not be used is left alone."""


class AdapterWatcher:
    """Compares what the engine drafts with to what was decided, and changes it between two steps.

    `follow` by one thread. An adapter that can't be fetched, read or loaded leaves its segment as it is, with
    its reason in `status`, and is tried again later. The engine itself is asked what it has: one that was
    rebuilt gets its adapters again.
    """

    def __init__(self, registry: AdapterRegistry, cache_dir: Path, engine: EngineThread[Engine]) -> None:
        self._registry = registry
        self._cache_dir = cache_dir
        self._engine = engine
        self._loaded: dict[str, str] = {}
        self._wanted: dict[str, str] = {}
        self._bad: dict[str, tuple[str, float]] = {}

    def follow(self, state: LadderState, running: str | None) -> None:
        """Load and unload what differs; nothing while another version than the champion runs. Blocks on the
        artifact store and for the engine's step. Never raises for a bad adapter or a dead engine."""
        fits = running is not None and running == state.champion
        self._wanted = dict(state.adapters) if fits else {}
        self._bad = {name: why for name, why in self._bad.items() if name in self._wanted.values()}
        if not (self._wanted or self._loaded):
            return
        try:
            self._reconcile(self._engine.call(_loaded).result())
        except EngineDead as error:
            logger.debug("adapters wait for another engine: %s", error)

    def status(self) -> dict[str, Any]:
        """Adapters by segment, `loaded` and `decided`, and why some that were decided can't be used."""
        return {
            "loaded": dict(self._loaded),
            "decided": dict(self._wanted),
            "unusable": {adapter: reason for adapter, (reason, _) in list(self._bad.items())},
        }

    def _reconcile(self, loaded: dict[str, str]) -> None:
        for segment, adapter in [*loaded.items()]:
            if segment not in self._wanted:
                self._engine.call(partial(_unload, adapter)).result()
                del loaded[segment]
                logger.info("segment %s drafts without its adapter %s", segment, adapter)
        for segment, adapter in self._wanted.items():
            if loaded.get(segment) != adapter and self._load(adapter, segment):
                loaded[segment] = adapter
                logger.info("segment %s drafts with adapter %s", segment, adapter)
        self._loaded = loaded

    def _load(self, name: str, segment: str) -> bool:
        _, since = self._bad.get(name, ("", float("-inf")))
        if time.monotonic() - since < RETRY_BAD_S:
            return False
        try:
            local = self._cache_dir / name
            self._registry.fetch(name, local)
            adapter = read_adapter(local)
            if adapter.card.segment != segment:
                raise ArtifactError(f"it is for segment {adapter.card.segment}, not for {segment}")
            self._engine.call(partial(_load, name, adapter)).result()
        except (ArtifactError, StoreError, ConfigError) as error:
            logger.error("adapter %s can't be used, its segment drafts as before: %s", name, error)
            self._bad[name] = (str(error), time.monotonic())
            return False
        self._bad.pop(name, None)
        return True


# On the engine's thread, between two steps.


def _loaded(engine: Engine) -> dict[str, str]:
    return dict(engine.adapters.report()["loaded"])


def _load(name: str, adapter: Adapter, engine: Engine) -> None:
    engine.adapters.load(name, adapter)


def _unload(name: str, engine: Engine) -> None:
    engine.adapters.unload(name)
