"""From the kernels' source to a loaded library, compiled once per machine and kept on disk."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import threading
from pathlib import Path

logger = logging.getLogger(__name__)

KERNELS = Path(__file__).parent / "kernels"
FLAGS = (
    "-std=c++20",
    "-O3",
    "-march=native",
    "-fPIC",
    "-shared",
    "-pthread",
    "-Wno-psabi",
    "-fvisibility=hidden",
)
COMPILERS = ("c++", "g++", "clang++")
TIMEOUT_S = 300.0


class BuildError(Exception):
    """The kernels could not be compiled or loaded; the message says why. Decoding goes on without them."""


def cache_directory() -> Path:
    """Where built libraries lie: `$ONLINE_DRAFT_CACHE`, else below `$XDG_CACHE_HOME` or `~/.cache`."""
    own = os.environ.get("ONLINE_DRAFT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "online-draft"


def switched_off() -> bool:
    """Whether `$ONLINE_DRAFT_KERNELS` is 0, off or false."""
    return os.environ.get("ONLINE_DRAFT_KERNELS", "").lower() in ("0", "off", "false")


def find_compiler() -> str | None:
    """Path of a C++ compiler: `$CXX`, else the first of c++, g++, clang++ that exists."""
    wanted = os.environ.get("CXX")
    return next((path for path in map(shutil.which, (wanted,) if wanted else COMPILERS) if path), None)


def library_path(compiler: str | None = None) -> Path:
    """Where the library for these sources, this compiler and this processor is or will be."""
    digest = hashlib.sha256()
    for source in sorted(KERNELS.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    digest.update(repr((FLAGS, compiler and _version(compiler), platform.machine(), _processor())).encode())
    return cache_directory() / "kernels" / f"{digest.hexdigest()[:24]}.so"


def build() -> Path:
    """Compile in a child process unless the library is on disk already. Blocks for seconds.

    Safe to repeat, and to run in several processes at once. BuildError without a compiler or when it fails.
    """
    compiler = find_compiler()
    if compiler is None:
        raise BuildError(f"no C++ compiler: none of {', '.join(COMPILERS)} is on the PATH (or set CXX)")
    path = library_path(compiler)
    if _ours(path):
        return path
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(suffix=".so", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise BuildError(f"{path.parent} can't be written: {error}") from error
    # Requests may be served meanwhile: they come first.
    behind = ["nice", "-n", "19"] if shutil.which("nice") else []
    command = [*behind, compiler, *FLAGS, str(KERNELS / "api.cpp"), "-o", scratch]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        if done.returncode:
            raise BuildError(f"{compiler} failed: {done.stderr.strip()[-2000:]}")
        os.chmod(scratch, 0o755)
        os.replace(scratch, path)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{compiler} could not be run: {error}") from error
    finally:
        Path(scratch).unlink(missing_ok=True)
    return path


class Kernels:
    """The loaded library; `None` as long as it is being built or where it can't be.

    One per process: `start` begins the build in the background (idempotent), `get` never blocks, `wait` does.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._library: ctypes.CDLL | None = None
        self.error: str | None = None
        """Why there are no kernels, once that is certain."""
        self.path: Path | None = None
        """Where the loaded library is; its name changes with sources, compiler and processor."""

    def start(self) -> None:
        """Begin to build or load. Returns at once."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._load, name="kernels", daemon=True)
                self._thread.start()

    def get(self) -> ctypes.CDLL | None:
        """The library if it is ready."""
        return self._library

    def wait(self, timeout_s: float | None = None) -> ctypes.CDLL | None:
        """The library, or None when it can't be had (see `error`) or isn't there in time."""
        self.start()
        assert self._thread is not None
        self._thread.join(timeout_s)
        return self._library

    def _load(self) -> None:
        if switched_off():
            self.error = "switched off by ONLINE_DRAFT_KERNELS"
            return
        try:
            path = build()
            library = _open(path)
        except (BuildError, OSError) as error:
            self.error = str(error)
            logger.warning("decoding runs without compiled kernels: %s", error)
            return
        self.path, self._library = path, library


def _ours(path: Path) -> bool:
    """Whether this file is there and none but this user or root can have written it: it will be executed."""
    try:
        found = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_uid in (0, os.getuid()) and not found.st_mode & 0o022


def _open(path: Path) -> ctypes.CDLL:
    """Load a built library; one that can't be loaded is built anew, once."""
    for attempt in (path, None):
        try:
            library = ctypes.CDLL(str(attempt or build()))
            _declare(library)
            return library
        except (OSError, AttributeError) as error:
            path.unlink(missing_ok=True)
            reason = f"{path} can't be loaded: {error}"
    raise BuildError(reason)


def _declare(library: ctypes.CDLL) -> None:
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.od_pool_new.argtypes, library.od_pool_new.restype = (number, number), pointer
    library.od_pool_free.argtypes, library.od_pool_free.restype = (pointer,), None
    made, used = (pointer, pointer, pointer, ctypes.c_double), (pointer, pointer)
    by_storage = {
        "pack": ((pointer, number, number, pointer), None),
        "target_new": (made, pointer),
        "target_free": ((pointer,), None),
        "target_step": (used, None),
        "amphista_new": ((pointer, *made), pointer),
        "amphista_free": ((pointer,), None),
        "amphista_draft": (used, None),
        "amphista_rebuild": (used, None),
        "trees_new": ((pointer,), pointer),
        "trees_free": ((pointer,), None),
        "trees_build": (used, None),
        "peak": ((pointer, number), number),
    }
    by_type = {
        "commit": ((pointer,), None),
        "sample": ((pointer, number, ctypes.c_double, number), number),
    }
    for signatures, names in ((by_storage, ("f32", "f32_bf16", "f64")), (by_type, ("f32", "f64"))):
        for function, (arguments, result) in signatures.items():
            for name in names:
                entry = getattr(library, f"od_{function}_{name}")
                entry.argtypes, entry.restype = arguments, result


def _version(compiler: str) -> str:
    try:
        done = subprocess.run(
            [compiler, "--version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{compiler} could not be run: {error}") from error
    return done.stdout


def _processor() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


kernels = Kernels()
"""The process's kernels."""
