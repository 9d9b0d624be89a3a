"""What a fresh journal starts with."""

from __future__ import annotations

from pathlib import Path

import pytest

from online_draft.errors import ConfigError
from online_draft.models.config import TargetConfig
from online_draft.models.loading import LoadedTarget, random_target
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import DecisionJournal
from online_draft.registry.ladder import fold
from online_draft.serve.bootstrap import ensure_first_version
from online_draft.store import ArtifactStore


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedTarget:
    config = TargetConfig.tiny("llama", False, 256)
    return LoadedTarget(random_target(config, 0), None, config, "tiny", "tiny", tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(("drafter", "starts"), [("ngram", False), ("untrained", True), (None, True)])
def test_a_fresh_journal_starts_with_the_named_drafter_or_with_none(
    loaded: LoadedTarget, tmp_path: Path, drafter: str | None, starts: bool
) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    registry, journal = DrafterRegistry(store, "tiny"), DecisionJournal(store, "tiny")
    ensure_first_version(loaded, registry, journal, drafter)
    assert (fold(journal.read()).champion is not None) == starts


def test_a_drafter_that_is_none_is_named(loaded: LoadedTarget, tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    registry, journal = DrafterRegistry(store, "tiny"), DecisionJournal(store, "tiny")
    with pytest.raises(ConfigError, match="untrained, ngram"):
        ensure_first_version(loaded, registry, journal, "elsewhere")
