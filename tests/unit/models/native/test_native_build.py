"""The kernels are built once, and decoding goes on where they can't be."""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from online_draft.models.native import build as native_build
from online_draft.models.native.build import BuildError, Kernels


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONLINE_DRAFT_CACHE", str(tmp_path))
    return tmp_path


def stand_in(folder: Path, name: str) -> Path:
    """A compiler of this name and version whose every output is the name."""
    script = folder / name
    script.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo {name} && exit\necho {name} > "$(eval echo \\${{$#}})"\n'
    )
    script.chmod(0o755)
    return script


def test_no_compiler_says_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    kernels = Kernels()
    assert kernels.wait(60) is None
    assert kernels.error is not None
    assert "no C++ compiler" in kernels.error


def test_switched_off(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONLINE_DRAFT_KERNELS", "off")
    kernels = Kernels()
    assert kernels.wait(60) is None
    assert kernels.error == "switched off by ONLINE_DRAFT_KERNELS"
    assert not list(cache.iterdir())


def test_a_failing_compiler_is_quoted(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "broken-compiler"
    script.write_text("#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho 'out of patience' >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    with pytest.raises(BuildError, match="out of patience"):
        native_build.build()
    assert not list((cache / "kernels").iterdir()), "nothing half-built stays"


def test_a_library_that_others_can_write_is_not_loaded(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = stand_in(tmp_path, "mine")
    monkeypatch.setenv("CXX", str(compiler))
    path = native_build.library_path(str(compiler))
    path.parent.mkdir()
    path.write_text("planted")
    path.chmod(0o666)
    assert native_build.build().read_text() == "mine\n"
    assert native_build.build().stat().st_mode & 0o022 == 0


@pytest.mark.parametrize("compiler", ["mine", "no-such-compiler"])
def test_nothing_is_loaded_from_a_directory_that_others_can_write(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    """Whatever was checked there could be another file a moment later."""
    monkeypatch.setenv("CXX", str(stand_in(tmp_path, "mine")))
    path = native_build.build()
    assert native_build.trusted(path)
    path.parent.chmod(0o777)
    monkeypatch.setenv("CXX", str(tmp_path / compiler))
    assert not native_build.trusted(path) and native_build.built_library() is None
    with pytest.raises(BuildError, match=f"{path.parent} .* others may write.*ONLINE_DRAFT_CACHE"):
        native_build.build()
    assert list(path.parent.iterdir()) == [path]
    path.parent.chmod(0o755)
    monkeypatch.setattr(native_build.os, "getuid", lambda: path.stat().st_uid + 1)
    trusted = path.stat().st_uid == 0
    assert native_build.trusted(path) == trusted, "root's is as good as one's own"


def test_a_built_library_is_used_again_and_a_broken_one_replaced(
    library: ctypes.CDLL, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = native_build.find_compiler()
    assert compiler is not None
    path = native_build.library_path(compiler)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a library")
    known, built = native_build.kernels.path, []
    assert known is not None

    def counted(command: list[str]) -> tuple[int, str]:
        """The compiler would make `known` again, in half a minute."""
        built.append(command)
        shutil.copy(known, command[-1])
        return 0, ""

    monkeypatch.setattr(native_build, "_compile", counted)
    first = Kernels()
    assert first.wait(300) is not None, first.error
    assert len(built) == 1
    second = Kernels()
    assert second.wait(300) is not None
    assert len(built) == 1
    assert os.listdir(path.parent) == [path.name]


def test_a_built_library_needs_no_compiler_any_more(
    library: ctypes.CDLL, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a slim image that comes with a filled cache."""
    assert native_build.kernels.path is not None
    path = cache / "kernels" / native_build.kernels.path.name
    path.parent.mkdir()
    shutil.copy(native_build.kernels.path, path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    kernels = Kernels()
    assert kernels.wait(60) is not None, kernels.error
    assert kernels.path == path


def test_without_a_compiler_the_newest_library_of_the_same_sources_counts(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    for age, name in enumerate(("older", "newer", "others-can-write")):
        monkeypatch.setenv("CXX", str(stand_in(tmp_path, name)))
        built.append(native_build.build())
        os.utime(built[-1], (age, 1000 + age))
    built[2].chmod(0o666)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert native_build.build() == built[1]
    with monkeypatch.context() as patch:
        patch.setattr(native_build, "FLAGS", ("-O0",))
        with pytest.raises(BuildError, match="no C\\+\\+ compiler"):
            native_build.build()
    kernels = Kernels()
    assert kernels.wait(60) is None
    assert kernels.error is not None and "can't be loaded" in kernels.error
    assert built[1].exists(), "what can't be built again stays"


def test_what_killed_builds_left_is_removed_when_it_is_old(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(stand_in(tmp_path, "compiler")))
    finished = native_build.build()
    killed, running = finished.with_name("tmpkilled.so"), finished.with_name("tmprunning.so")
    for path, age_s in ((killed, 4000), (running, 3000), (finished, 9000)):
        path.touch()
        os.utime(path, (time.time() - age_s,) * 2)
    native_build.build()
    assert killed.exists(), "nothing is built: nothing is looked for"
    monkeypatch.setenv("CXX", str(stand_in(tmp_path, "another")))
    again = native_build.build()
    assert set(again.parent.iterdir()) == {finished, running, again}


def test_a_compiler_and_its_children_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    script = (
        "import threading, time, pathlib, sys\n"
        "from online_draft.models.native import build\n"
        "mark = pathlib.Path(sys.argv[1])\n"
        "sleeper = ['sh', '-c', f'sleep 600 & echo $! > {mark}; wait']\n"
        "threading.Thread(target=build._compile, args=(sleeper,), daemon=True).start()\n"
        "while not (mark.exists() and mark.read_text()): time.sleep(0.01)\n"
    )
    mark = tmp_path / "pid"
    subprocess.run([sys.executable, "-c", script, str(mark)], check=True, timeout=60)
    try:
        handle = os.pidfd_open(int(mark.read_text()))
    except ProcessLookupError:
        return
    assert select.select([handle], [], [], 10)[0]
    os.close(handle)
