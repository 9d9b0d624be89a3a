"""What an operator sees of adapters, and decides about them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from online_draft.errors import ArtifactError, ConfigError
from online_draft.registry.adapters import AdapterRegistry
from online_draft.registry.journal import Decision
from online_draft.registry.ladder import LadderState
from online_draft.serve.admin.desk import AdminDesk

ROLES = {"adapters": "loaded", "waiting_adapters": "waiting", "previous_adapters": "previous"}
"""Of the ladder's fields: drafts now; was loaded on a champion before and waits for a decision; comes back
with the previous champion."""


class AdapterDesk:
    """Every method blocks on the artifact store; call from a thread. Holds no state of its own."""

    def __init__(self, desk: AdminDesk) -> None:
        self._desk = desk
        self.registry = AdapterRegistry(desk.registry.store, desk.registry.target)

    def adapters(self) -> list[dict[str, Any]]:
        """All published adapters with segment, base, roles and provenance, and those that should be there."""
        state = self._desk.state()
        published = self.registry.list_adapters()
        missing = sorted(state.adapters_in_use.difference(published))
        return [self._describe(adapter, state) for adapter in (*published, *missing)]

    def load(self, adapter: str, actor: str, reason: str, expected_seq: int | None = None) -> Decision:
        """Decide that an adapter drafts for its segment. ArtifactError when it is missing or damaged; else
        errors as `registry.ladder.decide`."""
        manifest = self.registry.verify(adapter)
        numbers = {"segment": manifest.segment, "base": manifest.base}
        return self._desk.decide("adapter_load", adapter, actor, reason, expected_seq, numbers)

    def drop(self, name: str, actor: str, reason: str, expected_seq: int | None = None) -> Decision:
        """Decide that an adapter, named itself or by its segment, drafts no more. ConfigError when none does;
        else errors as `registry.ladder.decide`."""
        state = self._desk.state()
        known = {**state.waiting_adapters, **state.adapters}
        if name in known.values():
            known = {segment: adapter for segment, adapter in known.items() if adapter == name}
        elif name in known:
            known = {name: known[name]}
        else:
            raise ConfigError("adapter", f"no adapter {name}, nor one of such a segment, is loaded or waits")
        [(segment, adapter)] = known.items()
        seq = state.seq if expected_seq is None else expected_seq
        return self._desk.decide("adapter_drop", adapter, actor, reason, seq, {"segment": segment})

    def _describe(self, adapter: str, state: LadderState) -> dict[str, Any]:
        roles = [role for name, role in ROLES.items() if adapter in getattr(state, name).values()]
        shown: dict[str, Any] = {"adapter": adapter, "roles": roles}
        try:
            manifest = self.registry.manifest(adapter)
        except ArtifactError as error:
            return {**shown, "error": str(error)}
        return {
            **shown,
            "segment": manifest.segment,
            "base": manifest.base,
            "kind": manifest.kind,
            "bytes": manifest.total_bytes,
            "provenance": asdict(manifest.provenance),
        }
