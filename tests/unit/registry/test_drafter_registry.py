from __future__ import annotations

import hashlib
import json
import re
import uuid
from pathlib import Path

import pytest

from online_draft.errors import ArtifactError, ConfigError
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.manifest import Provenance
from online_draft.store import ArtifactStore

TARGET = "llama-0123456789abcdef-01234567"
ORIGIN = Provenance("baseline", 120, {"slices": 4}, "abc1234", 1_700_000_000_000)


@pytest.fixture(params=["path", "url"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> DrafterRegistry:
    root = str(tmp_path / "store") if request.param == "path" else f"memory://{uuid.uuid4().hex}"
    return DrafterRegistry(ArtifactStore(root), TARGET)


def drafter_dir(where: Path, weights: bytes = b"weights", target: str = TARGET) -> Path:
    where.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(weights).hexdigest()
    manifest = {"schema": 1, "kind": "amphista", "config": {}, "target": target, "sha256": digest, "bytes": 7}
    (where / "model.safetensors").write_bytes(weights)
    (where / "manifest.json").write_text(json.dumps(manifest))
    return where


def test_a_published_version_is_fetched_as_it_was(registry: DrafterRegistry, tmp_path: Path) -> None:
    version = registry.publish(drafter_dir(tmp_path / "d"), ORIGIN)
    assert re.fullmatch(r"v0001-[0-9a-f]{8}", version)
    assert version.endswith(hashlib.sha256(b"weights").hexdigest()[:8])
    manifest = registry.fetch(version, tmp_path / "got")
    assert (tmp_path / "got/model.safetensors").read_bytes() == b"weights"
    assert sorted(path.name for path in (tmp_path / "got").iterdir()) == [
        "manifest.json",
        "model.safetensors",
    ]
    assert (manifest.kind, manifest.target, manifest.provenance) == ("amphista", TARGET, ORIGIN)
    assert manifest == registry.verify(version) == registry.manifest(version)
    assert manifest.total_bytes == sum(path.stat().st_size for path in (tmp_path / "got").iterdir())


def test_versions_count_up_and_names_come_first(registry: DrafterRegistry, tmp_path: Path) -> None:
    registry.publish(drafter_dir(tmp_path / "a", b"a"), ORIGIN)
    registry.publish(drafter_dir(tmp_path / "b", b"b"), Provenance(), name="baseline")
    last = registry.publish(drafter_dir(tmp_path / "c", b"c"), ORIGIN)
    assert [version.partition("-")[0] for version in registry.list_versions()] == [
        "baseline",
        "v0001",
        "v0002",
    ]
    assert registry.list_versions()[-1] == last
    assert registry.manifest("baseline").provenance.created_at_ms > 0


def test_importing_the_same_weights_again_changes_nothing(registry: DrafterRegistry, tmp_path: Path) -> None:
    for _ in range(2):
        assert registry.publish(drafter_dir(tmp_path / "d"), ORIGIN, name="narrow") == "narrow"
    with pytest.raises(ArtifactError, match="narrow exists with other contents"):
        registry.publish(drafter_dir(tmp_path / "d", b"others"), ORIGIN, name="narrow")


@pytest.mark.parametrize("name", ["v0001-01234567", "../x", "A", "", ".hidden"])
def test_bad_names_are_refused(registry: DrafterRegistry, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        registry.publish(drafter_dir(tmp_path / "d"), ORIGIN, name=name)


def test_what_is_not_a_sound_drafter_is_not_published(registry: DrafterRegistry, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="can't read drafter version directory"):
        registry.publish(tmp_path / "nowhere", ORIGIN)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
        registry.publish(tmp_path / "empty", ORIGIN)
    with pytest.raises(ArtifactError, match="is for target other"):
        registry.publish(drafter_dir(tmp_path / "other", target="other"), ORIGIN)
    changed = drafter_dir(tmp_path / "changed")
    (changed / "model.safetensors").write_bytes(b"Weights")
    with pytest.raises(ArtifactError, match="is corrupt"):
        registry.publish(changed, ORIGIN)
    (changed / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="is not a drafter manifest"):
        registry.publish(changed, ORIGIN)
    assert registry.list_versions() == []


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(None, "missing"), (b"weight", "has 6 bytes, expected 7"), (b"wEights", "corrupt")],
)
def test_damaged_weights_are_refused_with_the_reason(
    registry: DrafterRegistry, tmp_path: Path, damage: bytes | None, reason: str
) -> None:
    version = registry.publish(drafter_dir(tmp_path / "d"), ORIGIN)
    path = f"registry/{TARGET}/drafters/{version}/model.safetensors"
    if damage is None:
        registry.store.delete(path)
    else:
        registry.store.write_bytes(path, damage)
    for attempt in (lambda: registry.fetch(version, tmp_path / "got"), lambda: registry.verify(version)):
        with pytest.raises(ArtifactError, match=reason):
            attempt()
    assert not (tmp_path / "got").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_missing_damaged_and_foreign_versions_are_refused(registry: DrafterRegistry, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="v0009-00000000 is not in"):
        registry.manifest("v0009-00000000")
    with pytest.raises(ArtifactError, match="is not a name of a drafter version"):
        registry.fetch("../../etc", tmp_path / "got")
    version = registry.publish(drafter_dir(tmp_path / "d"), ORIGIN)
    path = f"registry/{TARGET}/drafters/{version}/version.json"
    good = json.loads(registry.store.read_bytes(path))
    for change, reason in (
        ({"target": "other"}, "is for target other"),
        ({"version": "v2"}, "describes drafter version v2"),
        ({"schema": 9}, "has schema 9"),
        ({"files": {"../x": {"sha256": "0", "bytes": 1}}}, "not a plain file name"),
        ({"files": 3}, "is not a version manifest"),
    ):
        registry.store.write_bytes(path, json.dumps({**good, **change}).encode())
        with pytest.raises(ArtifactError, match=reason):
            registry.manifest(version)


def test_fetching_keeps_what_is_intact_and_replaces_what_is_not(
    registry: DrafterRegistry, tmp_path: Path
) -> None:
    version = registry.publish(drafter_dir(tmp_path / "d"), ORIGIN)
    got = tmp_path / "got"
    registry.fetch(version, got)
    before = got.stat().st_ino
    registry.fetch(version, got)
    assert got.stat().st_ino == before
    (got / "model.safetensors").write_bytes(b"damaged")
    registry.fetch(version, got)
    assert (got / "model.safetensors").read_bytes() == b"weights"


def test_pruning_keeps_what_is_in_use_the_newest_and_the_imported(
    registry: DrafterRegistry, tmp_path: Path
) -> None:
    registry.publish(drafter_dir(tmp_path / "base", b"base"), ORIGIN, name="baseline")
    made = [registry.publish(drafter_dir(tmp_path / f"{i}", bytes([i])), ORIGIN) for i in range(6)]
    assert registry.prune(keep={made[1]}, last=2) == [made[0], made[2], made[3]]
    assert registry.list_versions() == ["baseline", made[1], made[4], made[5]]
    assert registry.prune(keep=(), last=0) == [made[1], made[4]]
    assert registry.publish(drafter_dir(tmp_path / "next", b"n"), ORIGIN).startswith("v0007-")


def test_a_half_written_version_does_not_exist(registry: DrafterRegistry) -> None:
    registry.store.write_bytes(f"registry/{TARGET}/drafters/v0003-00000000/model.safetensors", b"half")
    assert registry.list_versions() == []
    with pytest.raises(ArtifactError, match="is not in"):
        registry.manifest("v0003-00000000")
