"""The decision journal: the one truth about which drafter serves.

`registry/<target>/decisions/NNNNNNNN.json`, numbered from 1 without gaps, each entry complete,
fsynced and created exclusively. Entries never change. Updates of the target itself have a journal of the
same form (`target_line`).
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast, get_args

from online_draft.core import SCHEMA_VERSION
from online_draft.errors import JournalError, LostRaceError
from online_draft.store import ArtifactStore

DecisionKind = Literal[
    "propose",
    "refuse",
    "canary",
    "promote",
    "settle",
    "roll_back",
    "pin",
    "unpin",
    "pause",
    "resume",
    "speculation_off",
    "speculation_on",
    "adapter_load",
    "adapter_drop",
    "retarget",
]
KINDS: tuple[DecisionKind, ...] = get_args(DecisionKind)

_ENTRY = re.compile(r"(\d{8})\.json")


@dataclass(frozen=True, slots=True)
class Decision:
    """One entry: what was decided about which version, by whom, why, and on which numbers (plain JSON).

    `version` is None for the switches (pause, resume, speculation_…), the adapter's id for `adapter_…`, the
    target's fingerprint for `retarget`. `seq` is 0 until the journal numbers it.
    """

    seq: int
    kind: DecisionKind
    version: str | None
    actor: str
    reason: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    at_ms: int = 0


class DecisionJournal:
    """Reads and appends entries of one target. Thread-safe; remembers entries it has read, as they never
    change. Unreachable store: StoreError; torn, foreign, missing or vanished entries: JournalError."""

    def __init__(self, store: ArtifactStore, target_fingerprint: str, folder: str = "decisions") -> None:
        self.store = store
        self._root = f"registry/{target_fingerprint}/{folder}"
        self._read: list[Decision] = []
        self._lock = threading.Lock()

    def read(self, after: int = 0) -> list[Decision]:
        """All entries numbered above `after`, in order."""
        names = self.store.list(self._root)
        numbers = [int(match.group(1)) for name in names if (match := _ENTRY.fullmatch(name))]
        last = max(numbers, default=0)
        with self._lock:
            if last < len(self._read):
                missing = self._path(len(self._read))
                raise JournalError(f"{missing} was read before and is gone from {self.store.root}")
            # By number and not by listing: a listing taken during an append may skip a name.
            for number in range(len(self._read) + 1, last + 1):
                self._read.append(self._read_entry(number))
            return self._read[after:]

    def append(self, expected_seq: int, decision: Decision) -> Decision:
        """Write `decision` as number `expected_seq + 1` and return it numbered, durable on return.

        LostRaceError when that number is taken: read again and decide again. After any other error the
        outcome is unknown until the journal is read.
        """
        if expected_seq and not self.store.exists(self._path(expected_seq)):
            raise JournalError(f"can't append after {self._path(expected_seq)}, which doesn't exist")
        seq = expected_seq + 1
        entry = {
            "schema": SCHEMA_VERSION,
            **asdict(decision),
            "seq": seq,
            "numbers": _plain(decision.numbers),
        }
        data = json.dumps(entry, indent=2, allow_nan=False).encode()
        if not self.store.create_exclusive(self._path(seq), data):
            raise LostRaceError(f"decision {seq} was taken by another writer; read again and decide again")
        return _parse(data, self._path(seq), seq)

    def _path(self, number: int) -> str:
        return f"{self._root}/{number:08d}.json"

    def _read_entry(self, number: int) -> Decision:
        path = self._path(number)
        if not self.store.exists(path):
            raise JournalError(f"{path} is missing in {self.store.root}, though later entries exist")
        return _parse(self.store.read_bytes(path), f"{self.store.root}/{path}", number)


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity, but a refusal must be able to say that it saw one."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise JournalError(f"numbers: {value!r} is not a number, text, list or mapping")


def _parse(data: bytes, path: str, number: int) -> Decision:
    try:
        raw = json.loads(data)
    except ValueError as error:
        raise JournalError(f"{path} is torn or corrupt: {error}") from error
    if not isinstance(raw, dict):
        raise JournalError(f"{path} is not a decision")
    schema = raw.get("schema", SCHEMA_VERSION - 1)
    if schema not in (SCHEMA_VERSION - 1, SCHEMA_VERSION):
        raise JournalError(f"{path} has schema {schema}; this code reads up to {SCHEMA_VERSION}")
    seq, kind, version = raw.get("seq"), raw.get("kind"), raw.get("version")
    actor, reason = raw.get("actor", ""), raw.get("reason", "")
    numbers, at_ms = raw.get("numbers", {}), raw.get("at_ms", 0)
    checks = {
        f"seq (must be {number})": type(seq) is int and seq == number,
        f"kind (one of {', '.join(KINDS)})": kind in KINDS,
        "version (text or null)": version is None or isinstance(version, str),
        "actor (text)": isinstance(actor, str),
        "reason (text)": isinstance(reason, str),
        "numbers (mapping)": isinstance(numbers, dict),
        "at_ms (integer)": type(at_ms) is int,
    }
    wrong = [name for name, right in checks.items() if not right]
    if wrong:
        raise JournalError(f"{path} is not a decision; wrong: {'; '.join(wrong)}")
    return Decision(number, cast(DecisionKind, kind), version, actor, reason, numbers, at_ms)
