"""Adapters on the store: bound to a published base, checked on the way in and out, pruned."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from online_draft.errors import ArtifactError
from online_draft.registry.adapters import AdapterRegistry
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.manifest import Provenance
from online_draft.store import ArtifactStore

TARGET = "llama-0123456789abcdef-01234567"
ORIGIN = Provenance("a0001-00000000", 120, {"steps": 4}, "abc1234", 1_700_000_000_000)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Shop:
    """A store with two bases."""

    root: Path
    store: ArtifactStore

    def __post_init__(self) -> None:
        self.drafters = DrafterRegistry(self.store, TARGET)
        self.adapters = AdapterRegistry(self.store, TARGET)
        for base in ("one", "two"):
            directory = self.root / base
            directory.mkdir()
            manifest = {"target": TARGET, "kind": "amphista", "sha256": sha256(base.encode())}
            (directory / "manifest.json").write_text(json.dumps(manifest))
            (directory / "model.safetensors").write_bytes(base.encode())
            self.drafters.publish(directory, Provenance(), name=base)

    def made(self, weights: str = "weights", base: str = "one", **card: Any) -> Path:
        directory = self.root / f"made-{uuid.uuid4().hex}"
        directory.mkdir()
        payload = weights.encode()
        fields = {
            "target": TARGET,
            "kind": "amphista",
            "segment": "sql",
            "base_digest": sha256(base.encode()),
            "sha256": sha256(payload),
        }
        (directory / "adapter_config.json").write_text("{}")
        (directory / "adapter_model.safetensors").write_bytes(payload)
        (directory / "card.json").write_text(json.dumps({**fields, **card}))
        return directory

    def path(self, adapter: str, name: str) -> str:
        return f"registry/{TARGET}/adapters/{adapter}/{name}"


@pytest.fixture(params=["path", "url"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Shop:
    root = str(tmp_path / "store") if request.param == "path" else f"memory://{uuid.uuid4().hex}"
    return Shop(tmp_path, ArtifactStore(root))


def test_a_published_adapter_is_fetched_as_it_was(shop: Shop, tmp_path: Path) -> None:
    made = shop.made()
    adapter = shop.adapters.publish(made, "one", ORIGIN)
    assert re.fullmatch(r"a0001-[0-9a-f]{8}", adapter) and adapter.endswith(sha256(b"weights")[:8])
    manifest = shop.adapters.fetch(adapter, tmp_path / "got")
    names = ["adapter_config.json", "adapter_model.safetensors", "card.json"]
    assert sorted(path.name for path in (tmp_path / "got").iterdir()) == names
    for name in names:
        assert (tmp_path / "got" / name).read_bytes() == (made / name).read_bytes()
    assert (manifest.segment, manifest.base, manifest.kind) == ("sql", "one", "amphista")
    assert manifest.base_digest == sha256(b"one") and manifest.provenance == ORIGIN
    assert manifest == shop.adapters.verify(adapter) == shop.adapters.manifest(adapter)


def test_the_same_weights_for_the_same_base_and_segment_are_one_adapter(shop: Shop) -> None:
    first = shop.adapters.publish(shop.made(), "one", ORIGIN)
    assert shop.adapters.publish(shop.made(evaluation={"tau": 3}), "one", Provenance()) == first
    others = [
        shop.adapters.publish(shop.made(base="two"), "two", ORIGIN),
        shop.adapters.publish(shop.made(segment="python"), "one", ORIGIN),
        shop.adapters.publish(shop.made("other weights"), "one", ORIGIN),
    ]
    assert [name[:5] for name in (first, *others)] == ["a0001", "a0002", "a0003", "a0004"]
    assert shop.adapters.list_adapters() == [first, *others]


def test_a_damaged_twin_is_not_taken_for_the_adapter(shop: Shop) -> None:
    first = shop.adapters.publish(shop.made(), "one", ORIGIN)
    shop.store.write_bytes(shop.path(first, "adapter_config.json"), b"[]")
    assert shop.adapters.publish(shop.made(), "one", ORIGIN) != first


def test_what_does_not_belong_to_a_published_base_is_not_published(shop: Shop) -> None:
    with pytest.raises(ArtifactError, match=r"base with weights .*, which two isn't"):
        shop.adapters.publish(shop.made(), "two", ORIGIN)
    with pytest.raises(ArtifactError, match="three is not in"):
        shop.adapters.publish(shop.made(), "three", ORIGIN)
    with pytest.raises(ArtifactError, match="is for target other"):
        shop.adapters.publish(shop.made(target="other"), "one", ORIGIN)
    assert shop.adapters.list_adapters() == []


@pytest.mark.parametrize(
    ("name", "contents", "reason"),
    [
        ("card.json", None, r"has no card\.json"),
        ("adapter_config.json", None, r"has no adapter_config\.json"),
        ("adapter_model.safetensors", b"changed", "corrupt"),
        ("card.json", b"{", "is not an adapter's card"),
        ("card.json", b'{"target": 1}', "is not an adapter's card"),
    ],
)
def test_incomplete_and_corrupt_directories_are_refused(
    shop: Shop, name: str, contents: bytes | None, reason: str
) -> None:
    made = shop.made()
    if contents is None:
        (made / name).unlink()
    else:
        (made / name).write_bytes(contents)
    with pytest.raises(ArtifactError, match=reason):
        shop.adapters.publish(made, "one", ORIGIN)
    with pytest.raises(ArtifactError, match="segment is ''"):
        shop.adapters.publish(shop.made(segment=""), "one", ORIGIN)
    assert shop.adapters.list_adapters() == []


@pytest.mark.parametrize(
    ("damage", "reason"), [(None, "missing"), (b"w", "1 bytes"), (b"wEights", "corrupt")]
)
def test_damage_on_the_store_is_found_and_nothing_is_fetched(
    shop: Shop, tmp_path: Path, damage: bytes | None, reason: str
) -> None:
    adapter = shop.adapters.publish(shop.made(), "one", ORIGIN)
    path = shop.path(adapter, "adapter_model.safetensors")
    if damage is None:
        shop.store.delete(path)
    else:
        shop.store.write_bytes(path, damage)
    for attempt in (
        lambda: shop.adapters.fetch(adapter, tmp_path / "got"),
        lambda: shop.adapters.verify(adapter),
    ):
        with pytest.raises(ArtifactError, match=reason):
            attempt()
    assert not (tmp_path / "got").exists()


def test_half_written_foreign_and_misnamed_ones_do_not_exist(shop: Shop, tmp_path: Path) -> None:
    shop.store.write_bytes(shop.path("a0007-00000000", "card.json"), b"half")
    assert shop.adapters.list_adapters() == []
    with pytest.raises(ArtifactError, match="adapter a0007-00000000 is not in"):
        shop.adapters.fetch("a0007-00000000", tmp_path / "got")
    with pytest.raises(ArtifactError, match="is not a name of a"):
        shop.adapters.manifest("../one")
    adapter = shop.adapters.publish(shop.made(), "one", ORIGIN)
    assert adapter.startswith("a0008-"), "numbers of what was begun are not used again"
    path = shop.path(adapter, "adapter.json")
    good = json.loads(shop.store.read_bytes(path))
    for change, reason in (
        ({"target": "other"}, "is for target other"),
        ({"adapter": "a2"}, "describes adapter a2"),
        ({"schema": 9}, "has schema 9"),
        ({"files": {"../x": {"sha256": "0", "bytes": 1}}}, "not a plain file name"),
        ({"files": 3}, "is not an adapter manifest"),
    ):
        shop.store.write_bytes(path, json.dumps({**good, **change}).encode())
        with pytest.raises(ArtifactError, match=reason):
            shop.adapters.manifest(adapter)


def test_pruning_keeps_what_is_in_use_and_the_newest(shop: Shop) -> None:
    made = [shop.adapters.publish(shop.made(f"weights {i}"), "one", ORIGIN) for i in range(5)]
    assert shop.adapters.prune(keep={made[1]}, last=2) == [made[0], made[2]]
    assert shop.adapters.list_adapters() == [made[1], made[3], made[4]]
    assert shop.drafters.list_versions() == ["one", "two"]
