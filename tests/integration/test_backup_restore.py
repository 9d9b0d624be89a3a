"""The drill of docs/operations.md: its own commands copy what a running service keeps, all is destroyed, and
they bring it back elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from online_draft.buffer.books import read_books
from online_draft.buffer.erasures import ErasureLog
from online_draft.buffer.reader import RecordReader
from online_draft.buffer.reservoir_config import ReservoirConfig
from online_draft.buffer.writer import RecordWriter, WriterConfig
from online_draft.core import Interaction, SpeculationCounts
from online_draft.doctor.state import examine
from online_draft.learner.checkpoint import Checkpoint, CheckpointStore
from online_draft.learner.feed import RecordFeed
from online_draft.monitor.counts import CountsBoard, read_counts
from online_draft.redis_server import PrivateRedis, find_redis_server
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import DecisionJournal
from online_draft.registry.ladder import Choice, decide_with_retry, fold
from online_draft.registry.manifest import Provenance
from online_draft.serve.access.key import ApiKey
from online_draft.serve.access.key_file import changing_keys, read_keys
from online_draft.serve.weights import WeightWatcher
from online_draft.settings import load_settings
from online_draft.store import ArtifactStore, RedisKeys, connect_redis

Make = Callable[..., Interaction]
Until = Callable[..., None]

DOCS = Path(__file__).parents[2] / "docs" / "operations.md"
TARGET = "llama-0123456789abcdef-01234567"
KEYS = RedisKeys("od")
CONFIG = ReservoirConfig(held_out_fraction=0.3)
QUICK = WriterConfig(publish_every_s=0.02)
LATER_MS = 60_000


def recipe() -> list[str]:
    """The commands in the guide: copy Redis, copy the state directory, restore both."""
    section = DOCS.read_text().partition("## Back up and restore\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 3
    return blocks


class LastingRedis(PrivateRedis):
    """A server that writes down what it holds, like those of the deployment files."""

    def _config(self) -> str:
        return super()._config().replace("appendonly no", "appendonly yes")


class Site:
    """A Redis, a state directory, and what a service does with them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.redis = LastingRedis(root / "redis")

    def open(self) -> None:
        self.redis.start()
        self.store = ArtifactStore(self.state / "artifacts")
        self.registry = DrafterRegistry(self.store, TARGET)
        self.journal = DecisionJournal(self.store, TARGET)
        self.checkpoints = CheckpointStore(self.store, TARGET)
        self.client: Any = connect_redis(self.redis.url)

    def close(self) -> None:
        self.client.close()
        self.redis.kill()

    def run(self, commands: str, copy: Path) -> None:
        """As a person would in a shell."""
        tools = str(find_redis_server().path.parent)
        environment = {
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "STATE": str(self.state),
            "COPY": str(copy),
            "REDIS": f"-s {self.redis.directory}/redis.sock",
            "REDIS_DATA": str(self.redis.directory),
        }
        done = subprocess.run(
            ["bash", "-euc", commands],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def promote(self, name: str) -> None:
        directory = self.root / "made" / name
        directory.mkdir(parents=True)
        weights = name.encode() * 1000
        manifest = {"target": TARGET, "kind": "amphista", "sha256": hashlib.sha256(weights).hexdigest()}
        (directory / "manifest.json").write_text(json.dumps(manifest))
        (directory / "model.safetensors").write_bytes(weights)
        version = self.registry.publish(directory, Provenance())
        decide_with_retry(self.journal, lambda _: Choice("promote", version, actor="admin", reason=name))

    def feed(self, checkpoint: Checkpoint | None = None) -> RecordFeed:
        state = (checkpoint.reader, checkpoint.reservoirs) if checkpoint is not None else None
        return RecordFeed(self.redis.url, KEYS, TARGET, CONFIG, state=state, store=self.store)

    def save(self, feed: RecordFeed) -> None:
        reader, reservoirs = feed.to_bytes()
        progress = {"total": {"slices": 7}, "erased": feed.erased}
        self.checkpoints.save(Checkpoint(progress, b"weights", reservoirs, reader))
        feed.settle()

    def findings(self) -> dict[str, tuple[str, str]]:
        settings = load_settings({"state_dir": self.state, "redis": {"url": self.redis.url}})
        return {found.name: (found.status, found.detail) for found in examine(settings)}


@pytest.fixture
def sites() -> Iterator[Callable[[str], Site]]:
    made: list[Site] = []
    # pytest's tmp_path can be too long for a unix socket.
    with tempfile.TemporaryDirectory(prefix="od-b-") as directory:

        def make(name: str) -> Site:
            made.append(Site(Path(directory) / name))
            return made[-1]

        yield make
        for site in made:
            site.redis.stop()


def take_all(feed: RecordFeed, count: int) -> None:
    while sum(feed.seen.values()) < count:
        feed.take()


def put(writer: RecordWriter, make: Make, numbers: range, until: Until, site: Site) -> None:
    for number in numbers:
        writer.put(make(number))

    def stored() -> int:
        books = read_books(site.client, KEYS).get(writer.writer_id)
        return books.stored if books is not None else 0

    until(lambda: stored() == numbers.stop)


def test_what_was_copied_is_back_on_another_cluster_and_the_rest_is_counted(
    sites: Any, tmp_path: Path, make_interaction: Make, until: Until
) -> None:
    copy_redis, copy_state, restore = recipe()
    first = sites("first")
    first.open()
    for name in ("base", "better"):
        first.promote(name)
    decide_with_retry(first.journal, lambda _: Choice("pause", actor="admin"))
    with changing_keys(first.state / "keys.json") as keys:
        keys.append(ApiKey("alice", "ab" * 32, max_streams=3))
    ErasureLog(first.store).request("somebody", now_ms=1)
    counts = CountsBoard(KEYS, "replica")
    counts.add("sql", "better", SpeculationCounts(5, 9, 3, [5], [4]))
    writer = RecordWriter(first.redis.url, KEYS, "replica", QUICK, counts.publish)
    feed = first.feed()
    put(writer, make_interaction, range(60), until, first)
    take_all(feed, 60)
    first.save(feed)
    put(writer, make_interaction, range(60, 80), until, first)  # read by nobody yet

    first.run(copy_redis, tmp_path)
    put(writer, make_interaction, range(80, 90), until, first)
    take_all(feed, 90)  # 80 to 89: in the checkpoint, not in the copy of Redis
    put(writer, make_interaction, range(90, 105), until, first)
    first.save(feed)  # 90 to 104: known from the books, in neither
    first.run(copy_state, tmp_path)
    put(writer, make_interaction, range(105, 109), until, first)  # nobody can know
    journal, counted = first.journal.read(), read_counts(first.client, KEYS)
    written = (first.state / "keys.json").read_bytes()
    feed.close()
    first.close()
    writer.close(timeout_s=0.1)
    shutil.rmtree(first.root)

    second = sites("second")
    second.run(restore, tmp_path)
    second.open()
    findings = second.findings()
    assert {status for status, _ in findings.values()} == {"ok"}, findings
    champion = fold(journal).champion
    assert champion is not None and f"champion {champion}" in findings["journal"][1]
    assert findings["records"][1].startswith("80 in the stream, 0 of them read")
    assert "1 in " in findings["keys"][1] and findings["versions"][1] == "2 in use, intact"
    assert second.journal.read() == journal
    assert (second.state / "keys.json").read_bytes() == written
    assert (second.state / "keys.json").stat().st_mode & 0o777 == 0o600
    assert [key.name for key in read_keys(second.state / "keys.json")] == ["alice"]
    assert [request.tenant for request in ErasureLog(second.store).read()] == ["somebody"]
    assert read_counts(second.client, KEYS) == counted
    drafts: list[str | None] = []
    watcher: WeightWatcher[bytes] = WeightWatcher(
        second.journal,
        second.registry,
        second.root / "cache",
        lambda directory: (directory / "model.safetensors").read_bytes(),
        lambda lineup: drafts.append(lineup.version),
    )
    watcher.refresh()
    assert drafts == [champion] and watcher.running.drafter == b"better" * 1000

    checkpoint, problems = second.checkpoints.load()
    assert checkpoint is not None and not problems and checkpoint.trainer == b"weights"
    learner = second.feed(checkpoint)
    sizes = learner.reservoirs.sizes()["sql"]
    assert sizes["recent"] + sizes["held_out"] == 90, "what was read before is there"
    writer = RecordWriter(second.redis.url, KEYS, "new", QUICK)
    put(writer, make_interaction, range(200, 210), lambda *_: None, second)
    writer.close()
    take_all(learner, 10)
    counts_now = learner.status()["reader"]
    assert (counts_now["duplicates"], counts_now["gaps"], counts_now["trimmed"]) == (20, 0, 0)
    assert learner.seen["duplicate"] == 0
    reader = learner._reader
    (told,) = [books for books in read_books(second.client, KEYS).values() if not books.closed]
    assert (reader.lag(), reader.lost_in_crash(told.at_ms + LATER_MS)) == (0, 15)
    learner.close()
    second.close()


def test_without_a_copy_of_redis_the_checkpoint_knows_what_is_lost(
    make_interaction: Make, redis_server: PrivateRedis, client: Any, until: Until, tmp_path: Path
) -> None:
    site = Site(tmp_path)
    site.redis, site.client, site.store = redis_server, client, ArtifactStore(tmp_path)  # type: ignore[assignment]
    writer = RecordWriter(redis_server.url, KEYS, "replica", QUICK)
    put(writer, make_interaction, range(30), until, site)
    feed = site.feed()
    take_all(feed, 30)
    put(writer, make_interaction, range(30, 42), until, site)
    reader_state, _ = feed.to_bytes()
    feed.close()
    books = writer.close()
    client.flushall()
    reader = RecordReader(redis_server.url, KEYS, TARGET, reader_state)
    assert reader.read(10) == []
    assert reader.lost_in_crash(books.at_ms + LATER_MS) == 12
    again = RecordReader(redis_server.url, KEYS, TARGET, reader.to_bytes())
    assert again.lost_in_crash(books.at_ms + LATER_MS) == 12
    assert again.lost_in_crash(books.at_ms) == 0, "they may yet say it again"
    for one in (reader, again):
        one.close()


def test_a_copy_made_in_the_middle_of_promotions_is_whole(sites: Any, tmp_path: Path) -> None:
    _, copy_state, restore = recipe()
    first = sites("first")
    first.open()
    first.promote("begin")
    stop, made = threading.Event(), [0]

    def go_on() -> None:
        while not stop.is_set():
            made[0] += 1
            first.promote(f"number-{made[0]}")

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        for _ in range(3):
            before = made[0]
            while made[0] < before + 3:
                stop.wait(0.01)
            first.run(copy_state, tmp_path)
    finally:
        stop.set()
        thread.join()
    (tmp_path / "dump.rdb").touch()
    second = sites("second")
    second.run(restore.partition("cd ")[0], tmp_path)
    second.open()
    found = second.findings()
    assert found["journal"][0] == found["versions"][0] == "ok", found
    assert len(second.journal.read()) >= 6
    second.close()
    first.close()
