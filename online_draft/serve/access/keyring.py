"""The keys that are valid now."""

from __future__ import annotations

import hmac
import logging
import time
from pathlib import Path
from typing import Any

from online_draft.errors import ConfigError
from online_draft.serve.access.key import MAX_SECRET_CHARACTERS, ApiKey, check_distinct, digest_of
from online_draft.serve.access.key_file import read_keys

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5

_Mark = tuple[int, int, int] | None


class Keyring:
    """Keys from settings and from a watched file. Not thread-safe; one event loop uses it.

    From the moment at which there are keys, or the file is there at all, requests need one (`required`),
    until a restart: who revokes the last key, or loses the file, doesn't mean to let everybody in.
    """

    def __init__(self, file: Path | None, entries: tuple[Any, ...] = (), required: bool = False) -> None:
        """Read all keys. ConfigError when any can't be understood."""
        self.changes = 0
        """How often keys were read anew."""
        self._file = file
        self._fixed = tuple(ApiKey.from_entry(entry, "access.keys") for entry in entries)
        self._required = required or bool(self._fixed)
        self._from_file: tuple[ApiKey, ...] = ()
        self._mark = self._look()
        self._looked = time.monotonic()
        self._required |= self._mark is not None
        if self._mark is not None:
            self._read()
        check_distinct(self.keys, "access.keys")

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """All valid keys as of the last look."""
        return self._fixed + self._from_file

    @property
    def required(self) -> bool:
        """Whether a request needs a key."""
        return self._required

    def refresh(self, at_once: bool = False) -> bool:
        """Look at the file unless it was looked at just now; whether keys changed. Never raises.

        A file that can't be understood leaves the keys as they were, and the log says so.
        """
        now = time.monotonic()
        if self._file is None or (now - self._looked < LOOK_EVERY_S and not at_once):
            return False
        self._looked = now
        mark = self._look()
        if mark == self._mark:
            return False
        before, self._mark = self.keys, mark
        self._required |= mark is not None
        try:
            self._read()
            check_distinct(self.keys, str(self._file))
        except (ConfigError, FileNotFoundError) as error:
            logger.error("the API keys stay as they were: %s", error)
            self._from_file = before[len(self._fixed) :]
            return False
        self.changes += 1
        logger.info("API keys were read again: %d valid", len(self.keys))
        return True

    def find(self, secret: str) -> ApiKey | None:
        """The key of a secret. Takes as long for every secret: all digests are compared in full."""
        digest = digest_of(secret if len(secret) <= MAX_SECRET_CHARACTERS else "").encode()
        found = None
        for key in self.keys:
            if hmac.compare_digest(digest, key.digest.encode()):
                found = key
        return found

    def holds(self, key: ApiKey) -> bool:
        """Whether a key that was found earlier is still valid."""
        return any(hmac.compare_digest(key.digest, other.digest) for other in self.keys)

    def _look(self) -> _Mark:
        if self._file is None:
            return None
        try:
            seen = self._file.stat()
        except OSError:
            return None
        return seen.st_mtime_ns, seen.st_size, seen.st_ino

    def _read(self) -> None:
        if self._mark is None:
            self._from_file = ()
            return
        assert self._file is not None
        self._from_file = read_keys(self._file)
