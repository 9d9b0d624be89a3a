"""What earlier code wrote, byte for byte. These literals stay as they are when the schema moves on."""

from __future__ import annotations

from online_draft.buffer.books import Books
from online_draft.buffer.ledger import ReadLedger
from online_draft.buffer.records import decode, tenant_of
from online_draft.core import SCHEMA_VERSION, Interaction
from online_draft.registry.journal import DecisionJournal
from online_draft.registry.ladder import fold
from online_draft.registry.manifest import VersionManifest
from online_draft.store import ArtifactStore
from online_draft.store.packing import pack

TARGET = "llama-0123456789abcdef-01234567"

RECORD = (
    "dc0011{schema}bf6c6c616d612d303132333435363738396162636465662d3031323334353637a461636d65a373716c"
    "c4070201000200ff07c40902050006002c010200cb3fe6666666666666cb3fee66666666666628cd04d20001"
    "c403010301c403010202c403010200ae76303030312d3031323361626364cf0000018bcfe56800"
)
INTERACTION = Interaction(
    target=TARGET,
    tenant="acme",
    segment="sql",
    prompt_ids=(1, 2, 2047),
    output_ids=(5, 6, 300, 2),
    temperature=0.7,
    top_p=0.95,
    top_k=40,
    seed=1234,
    prompt_index=0,
    choice_index=1,
    accepted_lengths=(3, 1),
    tried=(2, 2),
    accepted=(2, 0),
    drafter_version="v0001-0123abcd",
    finished_at_ms=1_700_000_000_000,
)
JOURNAL = (
    b'{"seq": 1, "kind": "promote", "version": "base", "actor": "bootstrap", "reason": "first"}',
    b'{"schema": 0, "seq": 2, "kind": "propose", "version": "v0001-0123abcd", "actor": "learner",'
    b' "reason": "", "numbers": {"tau": 2.5}, "at_ms": 1700000000000}',
    b'{"schema": 1, "seq": 3, "kind": "canary", "version": "v0001-0123abcd", "actor": "control",'
    b' "reason": "", "numbers": {"share": 0.2}, "at_ms": 1700000000001}',
)
MANIFEST = (
    b'{"version": "base", "target": "llama-0123456789abcdef-01234567", "kind": "medusa",'
    b' "files": {"model.safetensors": {"sha256": "00", "bytes": 7}}}'
)


def test_this_code_reads_the_schema_of_these() -> None:
    assert SCHEMA_VERSION == 1, "add what schema 1 wrote to these literals, and drop what schema 0 did"


def test_records_of_both_schemas_are_read() -> None:
    for schema in ("00", "01"):
        record = bytes.fromhex(RECORD.format(schema=schema))
        assert decode(record) == INTERACTION and tenant_of(record) == "acme"


def test_a_journal_of_both_schemas_is_one_ladder(tmp_path: object) -> None:
    store = ArtifactStore(str(tmp_path))
    for number, entry in enumerate(JOURNAL, 1):
        store.write_bytes(f"registry/{TARGET}/decisions/{number:08d}.json", entry)
    state = fold(DecisionJournal(store, TARGET).read())
    assert (state.champion, state.canary, state.seq) == ("base", "v0001-0123abcd", 3)
    assert state.arms is not None and state.arms.share == 0.2


def test_a_manifest_from_before_there_was_provenance_is_read() -> None:
    manifest = VersionManifest.from_json(MANIFEST, "version.json")
    assert (manifest.schema, manifest.version, manifest.total_bytes) == (0, "base", 7)


def test_books_and_a_reader_from_before_tenants_could_be_erased_are_read() -> None:
    books = Books.unpack(bytes.fromhex("980009080100020ac2"))
    assert (books.produced, books.stored, books.spooled, books.opted_out) == (9, 8, 1, 2)
    assert (books.erased, books.closed, books.at_ms) == (0, False, 10)
    counts = {"delivered": 5, "duplicates": 0, "other_target": 0, "other_schema": 0, "unreadable": 0,
              "trimmed": 0, "gaps": 2}  # fmt: skip
    track = {"w": [1, 7, [[3, 4]], 0]}
    for state in ([1, TARGET, counts, track], [2, TARGET, counts, track, True]):
        ledger = ReadLedger(TARGET, pack(state))
        assert (ledger.counts.delivered, ledger.counts.gaps, ledger.last_seen("w")) == (5, 2, 7)
        assert ledger.owed({}, 10**15) == 0
