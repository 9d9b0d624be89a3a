from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from online_draft.buffer.books import Books, read_books, total
from online_draft.buffer.reader import RecordReader
from online_draft.buffer.records import encode
from online_draft.buffer.writer import RecordWriter, WriterConfig
from online_draft.core import Interaction, SpeculationCounts
from online_draft.errors import ConfigError, StoreError
from online_draft.monitor.counts import CountsBoard, read_counts
from online_draft.redis_server import PrivateRedis
from online_draft.registry.journal import Decision
from online_draft.registry.wakeups import publish_wakeup, wait_for_wakeup
from online_draft.store import RedisKeys

Make = Callable[..., Interaction]
Until = Callable[[Callable[[], object]], None]

TARGET = "llama-0123456789abcdef-01234567"
KEYS = RedisKeys("test")
QUICK = WriterConfig(
    max_queue=200, maxlen=10_000, batch=16, publish_every_s=0.02, last_backoff_s=0.1, timeout_s=0.3
)


@pytest.fixture
def writers(redis_server: PrivateRedis) -> Iterator[Callable[..., RecordWriter]]:
    made: list[RecordWriter] = []

    def make(config: WriterConfig = QUICK, **options: Any) -> RecordWriter:
        made.append(RecordWriter(redis_server.url, KEYS, "replica", config, **options))
        return made[-1]

    yield make
    for writer in made:
        writer.close(timeout_s=0.1)


def assert_balanced(books: Books) -> None:
    assert books.produced == books.stored + books.spooled + books.dropped, books


def drain(reader: RecordReader, page: int = 50) -> list[tuple[str, Interaction]]:
    found: list[tuple[str, Interaction]] = []
    while records := reader.read(page):
        found += records
    return found


def test_what_is_written_is_read_once_and_acknowledged(
    make_interaction: Make, writers: Any, readers: Any, client: Any
) -> None:
    writer, reader = writers(), readers()
    sent = [make_interaction(index) for index in range(100)]
    assert all(writer.put(interaction) for interaction in sent)
    books = writer.close()
    assert (books.produced, books.stored, books.spooled, books.dropped) == (100, 100, 0, 0)
    assert reader.lag() == 100
    records = reader.read(30) + drain(reader)
    assert [interaction for _id, interaction in records] == sent
    assert client.xpending(KEYS.records, "learner")["pending"] == 100
    reader.ack([entry for entry, _interaction in records])
    assert client.xpending(KEYS.records, "learner")["pending"] == 0
    assert (reader.lag(), reader.read(10), reader.counts.delivered) == (0, [], 100)
    assert reader.lost_in_crash() == 0


def test_a_blocking_read_wakes_up_for_a_record(make_interaction: Make, writers: Any, readers: Any) -> None:
    reader = readers()
    assert reader.read(1, block_ms=30) == []
    writers().put(make_interaction(7))
    assert [record for _id, record in reader.read(1, block_ms=10_000)] == [make_interaction(7)]


def test_unacknowledged_records_come_again_after_a_restart(
    make_interaction: Make, writers: Any, readers: Any
) -> None:
    writer = writers()
    for index in range(60):
        writer.put(make_interaction(index))
    writer.close()
    first = readers()
    done = first.read(20)
    checkpoint = first.to_bytes()
    first.ack([entry for entry, _record in done])
    first.read(25)
    first.close()

    restored = readers(state=checkpoint)
    seeds = [record.seed - 1234 for _id, record in restored.read(7) + drain(restored, 10)]
    assert seeds == list(range(20, 60))
    assert (restored.counts.delivered, restored.counts.gaps, restored.counts.duplicates) == (60, 0, 0)


def test_records_in_the_checkpoint_but_not_acknowledged_are_not_learnt_twice(
    make_interaction: Make, writers: Any, readers: Any, client: Any
) -> None:
    writer = writers()
    for index in range(20):
        writer.put(make_interaction(index))
    writer.close()
    first = readers()
    first.read(15)
    checkpoint = first.to_bytes()
    first.close()
    restored = readers(state=checkpoint)
    assert [record.seed - 1234 for _id, record in drain(restored)] == list(range(15, 20))
    assert restored.counts.duplicates == 15
    assert client.xpending(KEYS.records, "learner")["pending"] == 20
    restored.ack(restored.take_refused())
    assert client.xpending(KEYS.records, "learner")["pending"] == 5


def test_without_a_checkpoint_what_others_consumed_is_no_gap(
    make_interaction: Make, writers: Any, readers: Any
) -> None:
    writer = writers()
    for index in range(30):
        writer.put(make_interaction(index))
    writer.close()
    first = readers()
    first.ack([entry for entry, _record in first.read(10)])
    first.close()
    fresh = readers()
    assert len(drain(fresh)) == 20
    assert (fresh.counts.gaps, fresh.counts.trimmed) == (0, 0)


def test_books_balance_when_redis_is_killed_and_comes_back(
    make_interaction: Make, writers: Any, readers: Any, redis_server: PrivateRedis, until: Until
) -> None:
    writer, reader = writers(), readers()
    for index in range(100):
        writer.put(make_interaction(index))
    until(lambda: writer.books().stored == 100)
    before = reader.read(60)
    reader.ack([entry for entry, _record in before])

    redis_server.kill()
    slowest = 0.0
    for index in range(100, 500):
        started = time.perf_counter()
        writer.put(make_interaction(index))
        slowest = max(slowest, time.perf_counter() - started)
    assert slowest < 0.25
    books = writer.books()
    assert_balanced(books)
    assert (books.produced, books.stored, books.spooled, books.dropped) == (500, 100, 200, 200)
    until(lambda: not writer.connected)
    with pytest.raises(StoreError, match="read records"):
        reader.read(10)

    redis_server.start()
    until(lambda: writer.books().spooled == 0)
    for index in range(500, 550):
        writer.put(make_interaction(index))
    books = writer.close()
    assert_balanced(books)
    assert (books.produced, books.stored, books.dropped) == (550, 350, 200)

    # The 40 records that Redis held unread went with it; nothing else is missing, nothing is double.
    after = [record.seed - 1234 for _id, record in drain(reader)]
    assert after == [*range(100, 300), *range(500, 550)]
    counts = reader.counts
    assert (counts.delivered, counts.gaps, counts.trimmed, counts.duplicates) == (310, 40, 0, 0)
    assert books.stored == counts.delivered + reader.lost_in_crash()


def test_a_store_of_unknown_outcome_is_counted_and_learnt_once(
    make_interaction: Make, writers: Any, readers: Any, redis_server: PrivateRedis, until: Until, client: Any
) -> None:
    writer, reader = writers(), readers()
    writer.put(make_interaction(0))
    until(lambda: writer.books().stored == 1)
    assert redis_server.pid is not None
    os.kill(redis_server.pid, signal.SIGSTOP)
    try:
        for index in range(1, 10):
            writer.put(make_interaction(index))
        until(lambda: not writer.connected)
    finally:
        os.kill(redis_server.pid, signal.SIGCONT)
    until(lambda: writer.books().spooled == 0)
    books = writer.close()
    assert (books.produced, books.stored, books.dropped) == (10, 10, 0)
    assert client.xlen(KEYS.records) > 10
    assert [record.seed - 1234 for _id, record in drain(reader)] == list(range(10))
    assert reader.counts.duplicates == client.xlen(KEYS.records) - 10
    assert reader.counts.gaps == 0


def test_a_reply_that_got_lost_leaves_nothing_behind(
    make_interaction: Make, writers: Any, readers: Any, redis_server: PrivateRedis
) -> None:
    writer, reader = writers(), readers()
    for index in range(30):
        writer.put(make_interaction(index))
    writer.close()
    held = reader.read(10)
    assert redis_server.pid is not None
    os.kill(redis_server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreError):
            reader.read(10)
    finally:
        os.kill(redis_server.pid, signal.SIGCONT)
    assert [record.seed - 1234 for _id, record in drain(reader)] == list(range(10, 30))
    reader.ack([entry for entry, _record in held])
    assert (reader.counts.delivered, reader.counts.duplicates, reader.counts.gaps) == (30, 0, 0)


def test_records_cut_off_by_the_streams_length_are_counted_apart(
    make_interaction: Make, writers: Any, readers: Any, client: Any
) -> None:
    reader = readers()
    writer = writers()
    for index in range(100):
        writer.put(make_interaction(index))
    writer.close()
    assert len(reader.read(10)) == 10
    client.xtrim(KEYS.records, maxlen=30, approximate=False)
    assert len(drain(reader)) == 30
    assert (reader.counts.trimmed, reader.counts.gaps) == (60, 0)
    # Delivered, never acknowledged, and trimmed before the restart.
    restored = readers()
    assert len(drain(restored)) == 30
    assert restored.counts.trimmed == 10


def test_a_tenant_beyond_its_quota_is_dropped_and_counted(make_interaction: Make, writers: Any) -> None:
    writer = writers(WriterConfig(tenant_per_minute=5))
    taken = [writer.put(make_interaction(index, tenant="flood")) for index in range(50)]
    assert sum(taken) == 5 and writer.put(make_interaction(0, tenant="quiet"))
    books = writer.close()
    assert (books.stored, books.dropped) == (6, 45) and books.balanced


def test_the_stream_stays_near_its_length(make_interaction: Make, writers: Any, client: Any) -> None:
    writer = writers(WriterConfig(maxlen=100, max_queue=5000))
    for index in range(2000):
        writer.put(make_interaction(index))
    assert writer.close().stored == 2000
    assert 100 <= client.xlen(KEYS.records) <= 300


def test_a_full_redis_loses_its_oldest_records_and_takes_new_ones(
    make_interaction: Make, writers: Any, client: Any, until: Until
) -> None:
    writer = writers()
    for index in range(150):
        writer.put(make_interaction(index, prompt_ids=(1000,) * 2000))
    until(lambda: writer.books().stored == 150)
    client.config_set("maxmemory", client.info("memory")["used_memory"])
    for index in range(150, 250):
        writer.put(make_interaction(index, prompt_ids=(1000,) * 2000))
    until(lambda: writer.books().stored == 250)
    books = writer.close()
    assert_balanced(books)
    assert (books.stored, books.dropped) == (250, 0)
    assert client.xlen(KEYS.records) < 250


def test_foreign_and_damaged_records_are_refused_and_counted(
    make_interaction: Make, writers: Any, readers: Any, redis_server: PrivateRedis, client: Any
) -> None:
    writer, reader = writers(), readers()
    writer.put(make_interaction(0, target="other"))
    writer.put(make_interaction(1))
    writer.close()
    future = encode(make_interaction(3)).replace(b"\x01", b"\x09", 1)
    for fields in ({"w": "x", "s": 1, "d": b"junk"}, {"w": "x", "s": 2, "d": future}, {"unknown": 1}):
        client.xadd(KEYS.records, fields)
    assert [record for _id, record in drain(reader)] == [make_interaction(1)]
    counts = reader.counts
    assert (counts.other_target, counts.other_schema, counts.unreadable) == (1, 1, 2)
    # They wait for a checkpoint like the others: one that doesn't know their numbers would miss them.
    assert client.xpending(KEYS.records, "learner")["pending"] == 5
    restored = readers(state=RecordReader(redis_server.url, KEYS, TARGET).to_bytes())
    assert len(drain(restored)) == 1 and restored.counts == counts
    restored.ack(restored.take_refused())
    assert client.xpending(KEYS.records, "learner")["pending"] == 1


def test_a_logged_token_costs_at_most_six_bytes_with_all_that_its_entry_holds(
    make_interaction: Make, writers: Any, client: Any
) -> None:
    """Lengths as the embedded target's traffic has them, plain decoding included (a step a token)."""
    writer, rng = writers(), random.Random(0)
    for index in range(200):
        prompt, output = rng.randrange(15, 60), rng.randrange(30, 110)
        steps = output if index % 4 == 0 else output // 2
        lengths = (output - steps + 1, *(1,) * (steps - 1))
        writer.put(
            make_interaction(
                index,
                target="llama-6f99dd65f9395c64-9d666460",
                prompt_ids=tuple(rng.randrange(2048) for _ in range(prompt)),
                output_ids=tuple(rng.randrange(2048) for _ in range(output)),
                accepted_lengths=lengths,
                tried=(steps,) * 5,
                accepted=(steps // 2,) * 5,
                seed=rng.getrandbits(63),
                drafter_version="v0012-0123abcd",
            )
        )
    books = writer.close()
    entries = client.xrange(KEYS.records)
    assert books.bytes == sum(
        len(name) + len(value) for _id, fields in entries for name, value in fields.items()
    )
    assert books.stored == 200 and books.bytes <= 6 * books.tokens
    assert books.bytes >= 2 * books.tokens, "or something isn't counted"


def test_opted_out_requests_leave_a_number_only(
    make_interaction: Make, writers: Any, client: Any, until: Until
) -> None:
    writer = writers()
    for _ in range(3):
        writer.opt_out()
    writer.put(make_interaction(0))
    books = writer.close()
    assert (books.produced, books.opted_out) == (1, 3)
    assert client.xlen(KEYS.records) == 1


def test_an_interaction_that_contradicts_itself_is_dropped_without_a_gap(
    make_interaction: Make, writers: Any, readers: Any
) -> None:
    writer, reader = writers(), readers()
    writer.put(make_interaction(0))
    writer.put(make_interaction(1, accepted_lengths=(1,)))
    writer.put(make_interaction(2))
    books = writer.close()
    assert (books.produced, books.stored, books.dropped) == (3, 2, 1)
    assert [record.seed - 1234 for _id, record in drain(reader)] == [0, 2]
    assert reader.counts.gaps == 0


def test_published_books_show_every_writer_and_a_vanished_one_reveals_its_loss(
    make_interaction: Make, writers: Any, readers: Any, client: Any, until: Until
) -> None:
    reader, alive, other = readers(), writers(), writers()
    for index in range(10):
        alive.put(make_interaction(index))
        other.put(make_interaction(100 + index))
    other.close()
    until(lambda: read_books(client, KEYS).get(alive.writer_id, Books()).stored == 10)
    published = read_books(client, KEYS)
    assert published[other.writer_id].closed and not published[alive.writer_id].closed
    assert (total(published).produced, total(published).stored) == (20, 20)
    drain(reader)
    assert reader.lost_in_crash() == 0
    crashed = Books(produced=17, stored=10, spooled=5, dropped=2, at_ms=1000)
    client.hset(KEYS.books, "crashed", crashed.pack())
    now_ms = published[alive.writer_id].at_ms
    assert reader.lost_in_crash(now_ms) == 15


def test_closing_without_redis_is_prompt_and_drops_the_rest(
    make_interaction: Make, writers: Any, redis_server: PrivateRedis
) -> None:
    redis_server.kill()
    writer = writers()
    for index in range(5):
        writer.put(make_interaction(index))
    started = time.monotonic()
    books = writer.close(timeout_s=0.2)
    assert time.monotonic() - started < 3
    assert (books.dropped, books.spooled, books.closed) == (5, 0, True)
    assert not writer.put(make_interaction(9))
    assert_balanced(writer.books())


def test_counts_travel_with_the_writer_and_survive_a_restart_of_redis(
    writers: Any, redis_server: PrivateRedis, client: Any, until: Until
) -> None:
    board = CountsBoard(KEYS, "replica")
    writers(publish=board.publish)
    board.add("sql", "v1", SpeculationCounts(2, 5, 32, [2, 1], [1, 1]))
    until(lambda: read_counts(client, KEYS))
    redis_server.restart()
    board.add("sql", "v1", SpeculationCounts(1, 1, 16, [1, 0], [0, 0]))
    board.add("code", "v1", SpeculationCounts(1, 1))
    until(lambda: "code" in read_counts(client, KEYS))
    cell = read_counts(client, KEYS)["sql"]["v1"]
    assert (cell.requests, cell.speculation) == (2, SpeculationCounts(3, 6, 48, [3, 1], [1, 1]))


def test_a_wakeup_reaches_who_waits(redis_server: PrivateRedis, client: Any) -> None:
    assert wait_for_wakeup(client, KEYS, "0", block_ms=20) is None
    publish_wakeup(client, KEYS, Decision(4, "pause", None, "cli", ""))
    seen = wait_for_wakeup(client, KEYS, "0", block_ms=1000)
    assert seen is not None and wait_for_wakeup(client, KEYS, seen, block_ms=20) is None


def test_a_writer_config_out_of_range_names_its_field() -> None:
    with pytest.raises(ConfigError, match=r"buffer\.max_queue"):
        WriterConfig(max_queue=0)


def test_a_damaged_reader_state_is_refused(readers: Any) -> None:
    for state in (b"", b"junk", b"\x94\x09\xa1x\x80\x80", b"\x94\x01\xa1x\x01\x80"):
        with pytest.raises(StoreError, match="reader state"):
            readers(state=state)
