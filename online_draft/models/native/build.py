"""From the kernels' source to a loaded library, compiled once per machine and kept on disk."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import hashlib
import logging
import os
import platform
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
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
_UNFINISHED = "tmp"
_STALE_S = 3600.0
"""An unfinished library of this age is what a killed build left behind."""


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


def processor() -> str:
    """What `-march=native` depends on: the processor's feature flags, where the system lists them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def library_path(compiler: str) -> Path:
    """Where the library for these sources, this processor and this compiler is or will be.

    BuildError when the compiler doesn't run.
    """
    version = hashlib.sha256(_version(compiler).encode()).hexdigest()[:8]
    return _directory() / f"{_sources_digest()}-{version}.so"


def built_library() -> Path | None:
    """The newest trusted library for these sources and this processor, whatever compiler built it."""
    found = [path for path in _directory().glob(f"{_sources_digest()}-*.so") if trusted(path)]
    return max(found, key=_changed_at, default=None)


def trusted(path: Path) -> bool:
    """Whether a library is there and none but this user or root can have put it there: it is executed."""
    return _private(path, stat.S_ISREG) and _private(path.parent, stat.S_ISDIR)


def refused() -> str | None:
    """Why no library in the kernels' directory is trusted; None where it is ours, or yet to be made."""
    directory = _directory()
    if not os.path.exists(directory) or _private(directory, stat.S_ISDIR):
        return None
    return f"{directory} belongs to another user, or others may write to it"


def build() -> Path:
    """Compile in a child process unless the library is on disk already. Blocks for seconds.

    Without a compiler any library that was built from these sources for this processor will do. Safe to
    repeat, and to run in several processes at once. BuildError when there is neither, compiling fails, or
    others could change what lies there.
    """
    compiler = find_compiler()
    if compiler is None:
        built = built_library()
        if built is None:
            _check_directory()
            raise BuildError(f"no C++ compiler: none of {', '.join(COMPILERS)} is on the PATH (or set CXX)")
        return built
    path = library_path(compiler)
    if trusted(path):
        return path
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_directory()
        with _alone(path.parent):
            if not trusted(path):  # another process may have made it meanwhile
                _remove_unfinished(path.parent)
                _make(compiler, path)
    except OSError as error:
        raise BuildError(f"{path.parent} can't be written: {error}") from error
    return path


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """One process at a time compiles: replicas start together, and each would take a core for a minute."""
    held = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _make(compiler: str, path: Path) -> None:
    """Compile to `path`, which appears when it is whole."""
    handle, scratch = tempfile.mkstemp(prefix=_UNFINISHED, suffix=".so", dir=path.parent)
    os.close(handle)
    # Requests may be served meanwhile: they come first.
    behind = ["nice", "-n", "19"] if shutil.which("nice") else []
    try:
        try:
            code, message = _compile([*behind, compiler, *FLAGS, str(KERNELS / "api.cpp"), "-o", scratch])
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BuildError(f"{compiler} could not be run: {error}") from error
        if code:
            raise BuildError(f"{compiler} failed: {message.strip()[-2000:]}")
        os.chmod(scratch, 0o755)
        os.replace(scratch, path)
    finally:
        Path(scratch).unlink(missing_ok=True)


def _compile(command: list[str]) -> tuple[int, str]:
    """Exit status and what the compiler said. It ends with this process, unless that is killed."""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, process_group=0
    ) as process:

        def end() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        atexit.register(end)
        try:
            message = process.communicate(timeout=TIMEOUT_S)[1]
            return process.returncode, message
        finally:
            atexit.unregister(end)
            if process.poll() is None:
                end()


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
            self.path, self._library = _open()
        except (BuildError, OSError) as error:
            self.error = str(error)
            logger.warning("decoding runs without compiled kernels: %s", error)


def _directory() -> Path:
    return cache_directory() / "kernels"


def _sources_digest() -> str:
    """What a library depends on besides the compiler."""
    digest = hashlib.sha256()
    for source in sorted(KERNELS.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    digest.update(repr((FLAGS, platform.machine(), processor())).encode())
    return digest.hexdigest()[:24]


def _changed_at(path: Path) -> float:
    """Seconds since the epoch; 0 for a file that is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _remove_unfinished(directory: Path) -> None:
    """Delete what killed builds left behind. Never raises."""
    for path in directory.glob(f"{_UNFINISHED}*.so"):
        if 0.0 < _changed_at(path) < time.time() - _STALE_S:
            with contextlib.suppress(OSError):
                path.unlink()


def _check_directory() -> None:
    reason = refused()
    if reason is not None:
        raise BuildError(f"{reason}: set ONLINE_DRAFT_CACHE to a folder of your own")


def _private(path: Path, kind: Callable[[int], bool]) -> bool:
    """Whether this is there, of this kind, and none but its owner (this user or root) may write to it."""
    try:
        found = path.stat()
    except OSError:
        return False
    return kind(found.st_mode) and found.st_uid in (0, os.getuid()) and not found.st_mode & 0o022


def _open() -> tuple[Path, ctypes.CDLL]:
    """Build and load; a library that can't be loaded is built anew, once, where there is a compiler."""
    for _ in range(2):
        path = build()
        try:
            library = ctypes.CDLL(str(path))
            _declare(library)
            return path, library
        except (OSError, AttributeError) as error:
            reason = f"{path} can't be loaded: {error}"
        if find_compiler() is None:
            break
        path.unlink(missing_ok=True)
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
        "target_head": (used, None),
        "amphista_new": ((pointer, *made), pointer),
        "amphista_free": ((pointer,), None),
        "amphista_draft": (used, None),
        "amphista_rebuild": (used, None),
        "medusa_new": ((pointer, pointer, pointer), pointer),
        "medusa_free": ((pointer,), None),
        "medusa_draft": (used, None),
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


kernels = Kernels()
"""The process's kernels."""
