"""From an adapter directory to an adapter of the artifact store: registered, not yet loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from online_draft.errors import ArtifactError
from online_draft.launch.admin import open_desk
from online_draft.launch.pushing import as_provenance, check_target
from online_draft.registry.adapters import AdapterRegistry
from online_draft.settings import Settings


@dataclass(frozen=True, slots=True)
class PushedAdapter:
    """An adapter of the version `base` for `segment`; `fresh` is False when it was there before. `running`: a
    system of its target runs from the state directory."""

    adapter: str
    segment: str
    base: str
    fresh: bool
    running: bool


def push_adapter(settings: Settings, directory: Path) -> PushedAdapter:
    """Publish an adapter directory, without a decision about it: it drafts when somebody loads it.

    Where several versions have its base's weights it becomes one of the champion, if that is among them.
    ArtifactError when files are missing, corrupt or not finite, or its target or base isn't known here.
    """
    from online_draft.models.adapters.files import read_adapter
    from online_draft.models.artifact import load_drafter

    adapter = read_adapter(directory)
    card = adapter.card
    running = check_target(settings, directory, card.target)
    desk = open_desk(settings, card.target)
    bases = desk.registry.find_weights(card.base_digest)
    if not bases:
        named = f", {card.base_version}," if card.base_version else ""
        raise ArtifactError(
            f"{directory} belongs to a base{named} with weights {card.base_digest[:16]}; no version here has "
            "those. Register it first: online-draft drafter push"
        )
    champion = desk.state().champion
    base = champion if champion in bases else bases[-1]
    with TemporaryDirectory(prefix="od-base-") as scratch:
        desk.registry.fetch(base, Path(scratch) / "base")
        adapter.check(load_drafter(Path(scratch) / "base"))
    registry = AdapterRegistry(desk.registry.store, card.target)
    before = registry.list_adapters()
    name = registry.publish(directory, base, as_provenance(dict(card.provenance)))
    return PushedAdapter(name, card.segment, base, name not in before, running)
