from __future__ import annotations

import hashlib
import threading
import uuid
from pathlib import Path

import pytest

from online_draft.errors import ArtifactError, StoreError
from online_draft.store import ArtifactStore


@pytest.fixture(params=["path", "file_url", "memory_url"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    root = {
        "path": str(tmp_path / "artifacts"),
        "file_url": f"file://{tmp_path}/artifacts",
        "memory_url": f"memory://{uuid.uuid4().hex}",
    }
    return ArtifactStore(root[request.param])


def test_what_is_written_is_read_and_replaced(store: ArtifactStore) -> None:
    store.write_bytes("a/b/one.json", b"1")
    store.write_bytes("a/b/one.json", b"2")
    assert store.read_bytes("a/b/one.json") == b"2"
    assert store.list("a/b") == ["one.json"]
    assert store.list("a") == ["b"]
    assert store.exists("a/b") and store.exists("a/b/one.json") and not store.exists("a/c")


def test_exclusive_creation_never_replaces(store: ArtifactStore) -> None:
    assert store.create_exclusive("d/00000001.json", b"winner")
    assert not store.create_exclusive("d/00000001.json", b"loser")
    assert store.read_bytes("d/00000001.json") == b"winner"
    assert store.list("d") == ["00000001.json"]


def test_a_missing_directory_lists_nothing_and_a_missing_file_is_an_error(store: ArtifactStore) -> None:
    assert store.list("nowhere") == []
    with pytest.raises(StoreError, match=r"can't read nowhere/file"):
        store.read_bytes("nowhere/file")


def test_deletion_is_idempotent_and_takes_directories(store: ArtifactStore) -> None:
    store.write_bytes("a/one", b"1")
    store.write_bytes("a/two", b"2")
    store.delete("a/one")
    store.delete("a/one")
    assert store.list("a") == ["two"]
    store.delete("a")
    store.delete("a")
    assert store.list("a") == []


def test_a_directory_is_published_once(store: ArtifactStore) -> None:
    assert store.put_dir({"x": b"1", "last": b"2"}, "drafters/v1", last="last")
    assert not store.put_dir({"x": b"3", "last": b"4"}, "drafters/v1", last="last")
    assert store.read_bytes("drafters/v1/x") == b"1"
    assert store.list("drafters") == ["v1"]
    assert store.list("drafters/v1") == ["last", "x"]


def test_checked_reading_tells_missing_truncated_and_corrupt_apart(store: ArtifactStore) -> None:
    store.write_bytes("f", b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    assert store.get_file("f", digest, 7) == b"content"
    with pytest.raises(ArtifactError, match="missing"):
        store.get_file("g", digest, 7)
    store.write_bytes("f", b"conte")
    with pytest.raises(ArtifactError, match="has 5 bytes, expected 7"):
        store.get_file("f", digest, 7)
    store.write_bytes("f", b"kontent")
    with pytest.raises(ArtifactError, match="corrupt"):
        store.get_file("f", digest, 7)


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", "/etc/passwd"])
def test_paths_cannot_leave_the_root(store: ArtifactStore, path: str) -> None:
    with pytest.raises(StoreError, match="leaves the artifact store"):
        store.read_bytes(path)


def test_a_vanished_root_is_an_error_and_not_an_empty_store(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "mount")
    (tmp_path / "mount").rmdir()
    with pytest.raises(StoreError, match="can't list registry"):
        store.list("registry")


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(StoreError, match="artifact store nonsense://x"):
        ArtifactStore("nonsense://x")


def test_of_many_threads_one_creates_each_file(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    start = threading.Barrier(8)
    wins: list[tuple[int, int]] = []

    def race(writer: int) -> None:
        start.wait()
        wins.extend(
            (number, writer) for number in range(20) if store.create_exclusive(f"n/{number}", b"x" * 999)
        )

    threads = [threading.Thread(target=race, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number, _writer in wins) == list(range(20))
    assert len(list((tmp_path / "n").iterdir())) == 20
