"""Adapters in the journal: which one drafts for which segment, as pure transitions beside the ladder's.

decision      | legal when                                            | effect
--------------|-------------------------------------------------------|---------------------------------------
adapter_load  | `numbers` name a segment and the champion as `base`;  | drafts for its segment instead of its
              | the adapter isn't loaded already                      | forerunner; the segment waits no more
adapter_drop  | the adapter is loaded or waits                        | its segment drafts with the champion
              |                                                       | alone; the segment waits no more

An adapter belongs to one base. With another champion those that are loaded begin to wait for a decision; with
the previous champion again, those that it had come back, but for what was dropped by hand meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from online_draft.errors import ConfigError
from online_draft.registry.journal import Decision

KINDS = ("adapter_load", "adapter_drop")

Adapters = Mapping[str, str]
"""Ids by segment."""


class AdapterState(Protocol):
    """What these rules need of the ladder's state."""

    @property
    def champion(self) -> str | None: ...

    @property
    def previous(self) -> str | None: ...

    @property
    def adapters(self) -> Adapters: ...

    @property
    def previous_adapters(self) -> Adapters: ...

    @property
    def waiting_adapters(self) -> Adapters: ...


def adapter_changes(state: AdapterState, decision: Decision, by_hand: bool) -> dict[str, Any]:
    """What an adapter decision changes. ConfigError names the field that makes it illegal."""
    adapter = decision.version
    if not adapter:
        raise ConfigError("version", f"{decision.kind} needs an adapter")
    if decision.kind == "adapter_load":
        segment = _loadable(state, adapter, decision.numbers)
        waiting = {name: other for name, other in state.waiting_adapters.items() if name != segment}
        return {"adapters": {**state.adapters, segment: adapter}, "waiting_adapters": waiting}
    if adapter not in (*state.adapters.values(), *state.waiting_adapters.values()):
        loaded = ", ".join(sorted(state.adapters.values())) or "none"
        raise ConfigError("version", f"{adapter} is not loaded; loaded are: {loaded}")
    touched = ("adapters", "waiting_adapters", *(("previous_adapters",) if by_hand else ()))
    return {name: _without(getattr(state, name), adapter) for name in touched}


def rebased(state: AdapterState, champion: str | None, previous: str | None) -> dict[str, Any]:
    """What another champion changes, `previous` being the one to go back to from then on."""
    restored = state.previous_adapters if champion == state.previous else {}
    waiting = {**state.waiting_adapters, **state.adapters}
    return {
        "adapters": dict(restored),
        "previous_adapters": dict(state.adapters) if previous is not None else {},
        "waiting_adapters": {name: adapter for name, adapter in waiting.items() if name not in restored},
    }


def _loadable(state: AdapterState, adapter: str, numbers: Mapping[str, Any]) -> str:
    """The segment of an adapter that may be loaded."""
    segment, base = numbers.get("segment"), numbers.get("base")
    if not isinstance(segment, str) or not segment:
        raise ConfigError("numbers.segment", "must name the segment that the adapter is for")
    if base is None or base != state.champion:
        raise ConfigError(
            "numbers.base", f"{adapter} belongs to {base}, but {state.champion or 'no version'} is champion"
        )
    if adapter in state.adapters.values():
        raise ConfigError("version", f"{adapter} is loaded already")
    return segment


def _without(adapters: Adapters, adapter: str) -> dict[str, str]:
    return {segment: name for segment, name in adapters.items() if name != adapter}
