"""The target of one replica: loaded once, given other weights in place, and where those come from."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from online_draft.errors import ArtifactError, ConfigError
from online_draft.models.loading import LoadedTarget
from online_draft.models.replacement import check_replacement, replace_weights, replacement_files
from online_draft.registry.carry_over import carry_over
from online_draft.registry.journal import Decision
from online_draft.registry.target_line import (
    TargetLine,
    copy_path,
    fetch_copy,
    prune_copies,
    publish_copy,
)
from online_draft.store import ArtifactStore

logger = logging.getLogger(__name__)


class TargetRoom:
    """Knows the configured target (`origin`), its line of updates, and the copies on the artifact store.

    Every method blocks on the store and reads whole weights. Thread-safe; one update is published at a time.
    """

    def __init__(self, store: ArtifactStore, origin: LoadedTarget, cache: Path) -> None:
        """`cache` is a local directory for copies of what isn't on a local file system."""
        self.line = TargetLine(store, origin.fingerprint)
        self._store = store
        self._origin = origin
        self._cache = cache
        self._publishing = threading.Lock()

    def first(self) -> LoadedTarget:
        """The target as it was decided last; `origin` is the same object and has these weights, too."""
        fingerprint = self.line.current()
        if fingerprint == self._origin.fingerprint:
            return self._origin
        logger.info("the target was updated: %s serves, not %s", fingerprint, self._origin.fingerprint)
        return replace_weights(self._origin, fetch_copy(self._store, fingerprint, self._cache), fingerprint)

    def directory(self, fingerprint: str) -> Path:
        """Where the weights of this fingerprint are, read and checked. ArtifactError when they aren't."""
        directory = self._origin.path
        if fingerprint != self._origin.fingerprint:
            directory = fetch_copy(self._store, fingerprint, self._cache)
        try:
            found = check_replacement(self._origin, directory)
        except ConfigError as error:
            raise ArtifactError(f"{directory} can't replace the target: {error}") from error
        if found != fingerprint:
            raise ArtifactError(f"{directory} holds {found}, not {fingerprint}")
        return directory

    def publish(
        self,
        path: str,
        actor: str,
        reason: str,
        drain_s: float,
        notify: Callable[[Decision], None] = lambda decision: None,
    ) -> Decision:
        """Check weights, keep a copy of them, carry the drafter over and decide that they are the target's.

        `path` is a directory or a URL that this machine can read. ConfigError names what is wrong with it;
        LostRaceError when somebody else decided meanwhile.
        """
        with self._publishing, tempfile.TemporaryDirectory(prefix="od-target-") as scratch:
            seq, current = len(self.line.updates()), self.line.current()
            directory = Path(path).expanduser()
            if "://" in path:
                directory = ArtifactStore(path).local_directory("", Path(scratch))
            fingerprint = check_replacement(self._origin, directory)
            if fingerprint == current:
                raise ConfigError("path", f"holds the weights that are served already, {fingerprint}")
            if fingerprint != self._origin.fingerprint:
                files = replacement_files(self._origin, directory)
                publish_copy(self._store, fingerprint, files, path)
                self._confirm(fingerprint)
            version = carry_over(self._store, current, fingerprint, notify)
            numbers = {"from": current, "path": path, "drafter": version, "drain_s": drain_s}
            decision = self.line.decide(seq, fingerprint, actor, reason, numbers, notify)
        logger.info("decision %d: the target is %s from now on, was %s", decision.seq, fingerprint, current)
        prune_copies(self.line)
        return decision

    def _confirm(self, fingerprint: str) -> None:
        """What was published is what was checked: a directory may change while it is read."""
        try:
            self.directory(fingerprint)
        except ArtifactError as error:
            self._store.delete(copy_path(fingerprint))
            raise ConfigError("path", f"changed while it was read ({error})") from error
