"""Processes die and clocks jump: what is learnt from stays exact, and what is lost is counted."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from online_draft.buffer.books import Books, read_books
from online_draft.buffer.reader import RecordReader
from online_draft.buffer.reservoir_config import ReservoirConfig
from online_draft.buffer.reservoirs import Reservoirs
from online_draft.buffer.writer import RecordWriter, WriterConfig
from online_draft.core import Interaction
from online_draft.redis_server import PrivateRedis
from online_draft.store import RedisKeys

Make = Callable[..., Interaction]
Until = Callable[[Callable[[], object]], None]

TARGET = "llama-0123456789abcdef-01234567"
KEYS = RedisKeys("test")

PUT_FOR_EVER = """
import itertools, sys, time
from online_draft.buffer.writer import RecordWriter, WriterConfig
from online_draft.core import Interaction
from online_draft.store import RedisKeys

config = WriterConfig(max_queue=10**6, batch=8, publish_every_s=0.01)
writer = RecordWriter(sys.argv[1], RedisKeys("test"), "doomed", config)
for index in itertools.count():
    writer.put(Interaction("llama-0123456789abcdef-01234567", "default", "s", (index % 60_000, 9), (5, 6, 2),
                           0.0, 1.0, 0, index, 0, 0, (3,), (), (), "baseline", index))
    if index % 20 == 0:
        time.sleep(0.0005)
"""


def drain(reader: RecordReader) -> list[tuple[str, Interaction]]:
    found: list[tuple[str, Interaction]] = []
    while records := reader.read(500):
        found += records
    return found


def test_a_writer_killed_in_mid_flight_is_read_exactly_and_its_loss_is_told(
    redis_server: PrivateRedis, client: Any, until: Until
) -> None:
    reader = RecordReader(redis_server.url, KEYS, TARGET)
    process = subprocess.Popen([sys.executable, "-c", PUT_FOR_EVER, redis_server.url])
    seeds: list[int] = []
    try:
        while len(seeds) < 300:
            seeds += [record.seed for _id, record in reader.read(50, block_ms=100)]
            assert process.poll() is None
        until(lambda: read_books(client, KEYS))
    finally:
        process.kill()
        process.wait()
    seeds += [record.seed for _id, record in drain(reader)]
    assert seeds == list(range(len(seeds))), "each once, in order, none left out"
    ((writer_id, books),) = read_books(client, KEYS).items()
    assert books.balanced and not books.closed and writer_id.startswith("doomed")
    assert reader.lag() == 0 and reader.counts.gaps == 0
    # What it had accepted when it last spoke and we never saw is lost; of later ones nobody can know.
    lost = reader.lost_in_crash(now_ms=books.at_ms + 16_000)
    assert lost == max(0, books.accepted - len(seeds))
    assert reader.lost_in_crash(now_ms=books.at_ms + 1000) == 0, "it may yet live"
    assert reader.lost_in_crash(now_ms=books.at_ms - 10**7) == 0, "a clock that goes back is no crash"
    spooled = Books(produced=len(seeds) + 9, stored=len(seeds), spooled=9, at_ms=books.at_ms)
    client.hset(KEYS.books, writer_id, spooled.pack())
    assert reader.lost_in_crash(now_ms=books.at_ms + 16_000) == 9
    reader.close()


def test_a_learner_that_dies_anywhere_learns_each_record_once(
    make_interaction: Make, redis_server: PrivateRedis, client: Any
) -> None:
    """Twenty learners die one after the other: some before their checkpoint, some between it and the
    acknowledgement."""
    writer = RecordWriter(redis_server.url, KEYS, "replica", WriterConfig(batch=16))
    state, learnt = None, Reservoirs(ReservoirConfig(held_out_fraction=0.3)).to_bytes()
    config = ReservoirConfig(recent=10_000, long_term=10_000, held_out=10_000, held_out_fraction=0.3)
    written = 0
    for life in range(20):
        for _ in range(25):
            writer.put(make_interaction(written))
            written += 1
        while writer.books().spooled:
            time.sleep(0.001)
        reader, reservoirs = RecordReader(redis_server.url, KEYS, TARGET, state), Reservoirs.from_bytes(
            learnt, config
        )  # fmt: skip
        ids = []
        for entry, record in reader.read(10) + drain(reader):
            assert reservoirs.add(record) != "duplicate"
            ids.append(entry)
        if life % 3:
            state, learnt = reader.to_bytes(), reservoirs.to_bytes()
            if life % 3 == 2:
                reader.ack(ids + reader.take_refused())
        reader.close()
    writer.close()
    reader = RecordReader(redis_server.url, KEYS, TARGET, state)
    reservoirs = Reservoirs.from_bytes(learnt, config)
    for _entry, record in drain(reader):
        assert reservoirs.add(record) != "duplicate"
    sizes = reservoirs.sizes()["sql"]
    assert sizes["recent"] + sizes["held_out"] == written == 500
    counts = reader.counts
    assert (counts.delivered, counts.gaps, counts.trimmed) == (500, 0, 0)
    reader.close()


def test_what_was_delivered_and_then_cut_off_is_counted_once(
    make_interaction: Make, redis_server: PrivateRedis, client: Any
) -> None:
    writer = RecordWriter(redis_server.url, KEYS, "replica")
    for index in range(100):
        writer.put(make_interaction(index))
    writer.close()
    first = RecordReader(redis_server.url, KEYS, TARGET)
    assert len(first.read(5)) == 5
    checkpoint = first.to_bytes()
    assert len(first.read(10)) == 10
    first.close()
    client.xtrim(KEYS.records, maxlen=30, approximate=False)
    reader = RecordReader(redis_server.url, KEYS, TARGET, checkpoint)
    assert len(drain(reader)) == 30
    assert (reader.counts.trimmed, reader.counts.gaps, reader.counts.delivered) == (65, 0, 35)
    reader.close()


def test_a_redis_that_dies_between_reading_and_booking_loses_no_record(
    make_interaction: Make, redis_server: PrivateRedis, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RecordWriter(redis_server.url, KEYS, "replica")
    for index in range(20):
        writer.put(make_interaction(index))
    writer.close()
    reader = RecordReader(redis_server.url, KEYS, TARGET)
    reader.ledger.erased = {"default": make_interaction(4).finished_at_ms}
    with monkeypatch.context() as patch:

        def away(*_: Any, **__: Any) -> Any:
            raise ConnectionError("gone")

        for call in ("xrange", "pipeline"):
            patch.setattr(reader._client, call, away)
        assert [record.seed - 1234 for _id, record in reader.read(20)] == list(range(5, 20))
    assert reader.counts.erased == 5
    assert reader.read(20) == []
    assert client.xlen(KEYS.records) == 20, "five of them stones by now"
    assert reader._unburied == []
    reader.close()


def test_clocks_that_go_back_change_neither_order_nor_split(
    make_interaction: Make, redis_server: PrivateRedis
) -> None:
    writer = RecordWriter(redis_server.url, KEYS, "replica")
    for index in range(50):
        writer.put(make_interaction(index, finished_at_ms=10**12 - index))
    writer.close()
    reader = RecordReader(redis_server.url, KEYS, TARGET)
    records = [record for _id, record in drain(reader)]
    assert [record.seed - 1234 for record in records] == list(range(50))
    forward = Reservoirs(ReservoirConfig(held_out_fraction=0.3))
    backward = Reservoirs(ReservoirConfig(held_out_fraction=0.3))
    for index, record in enumerate(records):
        assert forward.add(make_interaction(index)) == backward.add(record)
    times = [record.finished_at_ms for record in backward.held_out()]
    assert times == sorted(times)
    reader.close()
