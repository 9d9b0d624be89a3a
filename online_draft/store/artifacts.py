"""The artifact file system: a local or shared POSIX path, or an fsspec URL (s3://, gs://, memory://).

POSIX: files appear by rename or link, fsynced, so a reader never sees half of one. Object stores
write whole objects by nature; there exclusive creation is fsspec's `mode="create"`, a conditional
write on S3 and Google Cloud Storage and a check before writing on file systems that offer no better.
Names that start with "." are work in progress and invisible.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from online_draft.errors import ArtifactError, StoreError


class ArtifactStore:
    """Files below one root. Paths are relative, with forward slashes. Blocks on I/O, holds no state.

    StoreError when the file system fails or a path leaves the root; ArtifactError when checked
    contents are wrong.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)
        self._fs: Any = None
        if "://" in self.root and not self.root.startswith("file://"):
            import fsspec

            try:
                self._fs, self._base = fsspec.core.url_to_fs(self.root)
            except (ValueError, ImportError, OSError) as error:
                raise StoreError(f"artifact store {self.root}: {error}") from error
        else:
            self._path = Path(self.root.removeprefix("file://")).absolute()
            with self._errors("create", ""):
                self._path.mkdir(parents=True, exist_ok=True)

    def read_bytes(self, path: str) -> bytes:
        """Contents of one file."""
        with self._errors("read", path):
            if self._fs is not None:
                data: bytes = self._fs.cat_file(self._url(path))
                return data
            return self._local(path).read_bytes()

    def write_bytes(self, path: str, data: bytes) -> None:
        """Create or replace one file, durably and at once. Idempotent."""
        with self._errors("write", path):
            if self._fs is not None:
                self._make_parent(path)
                self._fs.pipe_file(self._url(path), data)
                return
            final = self._local(path)
            with _finished_copy(final, data) as temporary:
                os.replace(temporary, final)
            _sync_directory(final.parent)

    def create_exclusive(self, path: str, data: bytes) -> bool:
        """Create one file, durably and at once; False when it exists already. Never replaces."""
        with self._errors("create", path):
            if self._fs is not None:
                self._make_parent(path)
                try:
                    self._fs.pipe_file(self._url(path), data, mode="create")
                except FileExistsError:
                    return False
                return True
            final = self._local(path)
            with _finished_copy(final, data) as temporary:
                created = _link(temporary, final)
            _sync_directory(final.parent)
            return created

    def exists(self, path: str) -> bool:
        """Whether a file or directory is there."""
        with self._errors("look up", path):
            if self._fs is not None:
                return bool(self._fs.exists(self._url(path)))
            return self._local(path).exists()

    def list(self, path: str) -> list[str]:
        """Sorted names in a directory; empty when it doesn't exist. StoreError when the root is gone."""
        with self._errors("list", path):
            if self._fs is not None:
                self._fs.invalidate_cache()
                try:
                    found = self._fs.ls(self._url(path), detail=False)
                except FileNotFoundError:
                    return []
                names = [PurePosixPath(entry).name for entry in found]
            else:
                try:
                    names = os.listdir(self._local(path))
                except FileNotFoundError:
                    if not self._path.is_dir():
                        raise
                    return []
            return sorted(name for name in names if not name.startswith("."))

    def delete(self, path: str) -> None:
        """Remove a file or a directory with all below it. Idempotent."""
        with self._errors("delete", path), contextlib.suppress(FileNotFoundError):
            if self._fs is not None:
                self._fs.rm(self._url(path), recursive=True)
                return
            local = self._local(path)
            if not local.is_dir():
                local.unlink()
                return
            # A directory disappears by rename first: readers see all of it or nothing.
            doomed = local.with_name(f".{local.name}.{uuid.uuid4().hex}")
            local.rename(doomed)
            shutil.rmtree(doomed)

    def clean(self, path: str) -> None:
        """Remove what interrupted writers and deletions left in a directory. Only for directories with one
        writer, by that writer: work in progress is removed, too. Idempotent."""
        if self._fs is not None:
            return
        with self._errors("clean", path), contextlib.suppress(FileNotFoundError):
            for leftover in self._local(path).glob(".*"):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def add_file(self, source: Path, path: str) -> None:
        """Copy a file of this machine in, piece by piece, durably and at once. Replaces."""
        with self._errors("copy in", path):
            if self._fs is not None:
                self._make_parent(path)
                self._fs.put_file(str(source), self._url(path))
                return
            final = self._local(path)
            final.parent.mkdir(parents=True, exist_ok=True)
            temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
            try:
                shutil.copyfile(source, temporary)
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, final)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_directory(final.parent)

    def local_directory(self, path: str, cache: Path) -> Path:
        """A directory of the store as one of this machine: itself on POSIX, else a copy of its files in
        `cache`, which is kept."""
        if self._fs is None:
            return self._local(path)
        with self._errors("fetch", path):
            cache.mkdir(parents=True, exist_ok=True)
            for name in self.list(path):
                if not (cache / name).is_file():
                    temporary = cache / f".{name}.{uuid.uuid4().hex}"
                    self._fs.get_file(self._url(f"{path}/{name}"), str(temporary))
                    os.replace(temporary, cache / name)
        return cache

    def put_dir(self, files: Mapping[str, bytes], path: str, last: str) -> bool:
        """Publish `files` (name -> contents) as the new directory `path`; False when it exists.

        POSIX: written under a temporary name, fsynced, renamed. Object stores have no rename of
        directories: there `last` is created last and exclusively; without it nothing is published.
        """
        if self._fs is not None:
            if self.exists(f"{path}/{last}"):
                return False
            for name, data in files.items():
                if name != last:
                    self.write_bytes(f"{path}/{name}", data)
            return self.create_exclusive(f"{path}/{last}", files[last])
        with self._errors("publish", path):
            final = self._local(path)
            temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
            temporary.mkdir(parents=True)
            try:
                for name, data in files.items():
                    _write_synced(temporary / name, data)
                _sync_directory(temporary)
                temporary.rename(final)
            except OSError as error:
                shutil.rmtree(temporary, ignore_errors=True)
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return False
                raise
            _sync_directory(final.parent)
            return True

    def get_file(self, path: str, sha256: str, size: int) -> bytes:
        """Contents of one file, checked. ArtifactError says what differs: missing, truncated, corrupt."""
        if not self.exists(path):
            raise ArtifactError(f"{path} is missing in {self.root}")
        data = self.read_bytes(path)
        if len(data) != size:
            raise ArtifactError(f"{path} in {self.root} has {len(data)} bytes, expected {size}")
        digest = hashlib.sha256(data).hexdigest()
        if digest != sha256:
            raise ArtifactError(f"{path} in {self.root} is corrupt: sha256 {digest}, expected {sha256}")
        return data

    def _parts(self, path: str) -> tuple[str, ...]:
        parts = PurePosixPath(path).parts
        if path.startswith("/") or ".." in parts:
            raise StoreError(f"path {path!r} leaves the artifact store {self.root}")
        return parts

    def _local(self, path: str) -> Path:
        return self._path.joinpath(*self._parts(path))

    def _url(self, path: str) -> str:
        return "/".join((self._base.rstrip("/"), *self._parts(path)))

    def _make_parent(self, path: str) -> None:
        self._fs.makedirs(self._url(str(PurePosixPath(path).parent)), exist_ok=True)

    @contextlib.contextmanager
    def _errors(self, action: str, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
            raise StoreError(f"can't {action} {path or '.'} in {self.root}: {reason}") from error


def _link(temporary: Path, final: Path) -> bool:
    """Give a finished file its name unless that is taken. The loser of a race gets False."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        # NFS may repeat a link whose reply was lost: two names on our file say that it was ours.
        return temporary.stat().st_nlink == 2
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise OSError(
                error.errno, "the file system offers no hard links; use a URL or another disk"
            ) from error
        raise
    return True


@contextlib.contextmanager
def _finished_copy(final: Path, data: bytes) -> Iterator[Path]:
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
    try:
        _write_synced(temporary, data)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
