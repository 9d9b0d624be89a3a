"""A tenant is taken out of the stream, and the books still balance."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from online_draft.buffer.books import read_books
from online_draft.buffer.reader import RecordReader
from online_draft.buffer.sweeping import Swept, sweep
from online_draft.buffer.writer import RecordWriter, WriterConfig
from online_draft.core import Interaction
from online_draft.errors import StoreError
from online_draft.redis_server import PrivateRedis
from online_draft.store import RedisKeys

Make = Callable[..., Interaction]
Until = Callable[[Callable[[], object]], None]

TARGET = "llama-0123456789abcdef-01234567"
KEYS = RedisKeys("test")
QUICK = WriterConfig(batch=16, publish_every_s=0.02, last_backoff_s=0.1, timeout_s=0.3)


@pytest.fixture
def writer(redis_server: PrivateRedis) -> Iterator[RecordWriter]:
    made = RecordWriter(redis_server.url, KEYS, "replica", QUICK)
    yield made
    made.close(timeout_s=0.1)


def drain(reader: RecordReader) -> list[Interaction]:
    found: list[Interaction] = []
    while records := reader.read(50):
        found += [record for _id, record in records]
    return found


def log(writer: RecordWriter, make: Make, count: int, first: int = 0, **changes: Any) -> None:
    """Every third record is tenant "gone"'s."""
    for index in range(first, first + count):
        tenant = "gone" if index % 3 == 0 else "stays"
        assert writer.put(make(index, tenant=tenant, prompt_ids=(60_000, index), **changes))


def all_bytes(client: Any) -> bytes:
    entries = client.xrange(KEYS.records)
    return b"".join(value for _id, fields in entries for value in fields.values())


def test_a_swept_stream_holds_no_record_of_the_tenant(
    make_interaction: Make, writer: RecordWriter, readers: Any, client: Any
) -> None:
    log(writer, make_interaction, 900)
    books = writer.close()
    assert b"gone" in all_bytes(client)
    assert sweep(client, KEYS, "gone") == Swept(900, 300, 0)
    assert b"gone" not in all_bytes(client) and client.xlen(KEYS.records) == 900
    assert sweep(client, KEYS, "gone") == Swept(600, 0, 0), "again is harmless"
    reader = readers()
    assert {record.tenant for record in drain(reader)} == {"stays"}
    counts = reader.counts
    assert (counts.delivered, counts.erased, counts.gaps, counts.trimmed) == (600, 300, 0, 0)
    assert reader.lost_in_crash(now_ms=books.at_ms + 10**6) == 0
    assert books.stored == counts.delivered + counts.erased


@pytest.mark.parametrize("with_checkpoint", [False, True])
def test_erasing_what_was_delivered_but_not_acknowledged_balances(
    make_interaction: Make, writer: RecordWriter, readers: Any, client: Any, with_checkpoint: bool
) -> None:
    log(writer, make_interaction, 300)
    writer.close()
    first = readers()
    first.read(1)
    checkpoint = first.to_bytes()
    first.read(89)
    first.close()
    sweep(client, KEYS, "gone")
    reader = readers(state=checkpoint if with_checkpoint else None)
    assert {record.tenant for record in drain(reader)} == {"stays"}
    counts = reader.counts
    assert (counts.gaps, counts.trimmed, counts.duplicates) == (0, 0, 0)
    # The checkpoint counts the first record as delivered, and it was used: that is what the learner erases.
    assert counts.delivered == (201 if with_checkpoint else 200)
    assert counts.delivered + counts.erased == 300


def test_late_records_of_an_erased_tenant_are_refused_and_deleted(
    make_interaction: Make, writer: RecordWriter, readers: Any, client: Any
) -> None:
    at = make_interaction(0).finished_at_ms
    log(writer, make_interaction, 90)
    writer.close()
    reader = readers()
    reader.ledger.erased = {"gone": at + 60}
    late = {record.finished_at_ms for record in drain(reader) if record.tenant == "gone"}
    assert late == {at + index for index in range(63, 90, 3)}, "what came after the erasure is new"
    assert reader.counts.erased == 21 and reader.counts.delivered == 69
    assert sweep(client, KEYS, "gone").erased == 9, "the reader deleted the others itself"
    # A learner that dies now and goes on from before finds the numbers of what is gone.
    again = readers(state=readers().to_bytes())
    again.ledger.erased = {"gone": at + 10**6}
    assert {record.tenant for record in drain(again)} == {"stays"}
    assert (again.counts.erased, again.counts.delivered, again.counts.gaps) == (30, 60, 0)


def test_what_waits_in_a_writer_is_erased_and_counted(
    make_interaction: Make,
    writer: RecordWriter,
    readers: Any,
    client: Any,
    redis_server: PrivateRedis,
    until: Until,
) -> None:
    log(writer, make_interaction, 30)
    until(lambda: writer.books().stored == 30)
    redis_server.kill()
    log(writer, make_interaction, 60, first=30)
    until(lambda: not writer.connected)
    assert writer.forget("gone") == 20 and writer.forget("gone") == 0
    books = writer.books()
    assert books.balanced and books.spooled + books.erased == 60
    redis_server.start()
    until(lambda: writer.books().spooled == 0)
    books = writer.close()
    assert books.balanced and (books.produced, books.dropped) == (90, 0)
    assert b"gone" not in all_bytes(client), "nothing was put there any more"
    reader = readers()
    assert {record.tenant for record in drain(reader)} == {"stays"}
    # Redis lost the first 30; of the others those in flight had numbers already, which came as stones.
    assert reader.counts.delivered == 40
    assert reader.counts.erased + books.erased == 20
    assert reader.counts.gaps + reader.counts.trimmed == 30
    assert next(iter(read_books(client, KEYS).values())).erased == books.erased


def test_forgetting_waits_for_the_batch_on_its_way(
    make_interaction: Make, writer: RecordWriter, redis_server: PrivateRedis, until: Until, client: Any
) -> None:
    log(writer, make_interaction, 3)
    until(lambda: writer.books().stored == 3)
    assert redis_server.pid is not None
    os.kill(redis_server.pid, signal.SIGSTOP)
    try:
        log(writer, make_interaction, 30, first=3)
        time.sleep(0.05)  # the thread is in its exchange by now
        forgetting = threading.Thread(target=writer.forget, args=("gone",))
        forgetting.start()
    finally:
        os.kill(redis_server.pid, signal.SIGCONT)
    forgetting.join(10)
    assert not forgetting.is_alive()
    until(lambda: writer.books().spooled == 0)
    sweep(client, KEYS, "gone")
    assert b"gone" not in all_bytes(client)
    assert writer.books().balanced


def test_records_of_unknown_owners_are_told(client: Any) -> None:
    client.xadd(KEYS.records, {"w": "x", "s": 1, "d": b"junk"})
    assert sweep(client, KEYS, "gone") == Swept(1, 0, 1)


def test_without_redis_it_says_so(client: Any, redis_server: PrivateRedis) -> None:
    redis_server.kill()
    with pytest.raises(StoreError, match="erase records"):
        sweep(client, KEYS, "gone")
