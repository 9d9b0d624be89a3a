"""The kernels are built once, and decoding goes on where they can't be."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from online_draft.models.native import build as native_build
from online_draft.models.native.build import BuildError, Kernels


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONLINE_DRAFT_CACHE", str(tmp_path))
    return tmp_path


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
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho mine > "$(eval echo \\${$#})"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    path = native_build.library_path(str(compiler))
    path.parent.mkdir()
    path.write_text("planted")
    path.chmod(0o666)
    assert native_build.build().read_text() == "mine\n"
    assert native_build.build().stat().st_mode & 0o022 == 0


def test_a_built_library_is_used_again_and_a_broken_one_replaced(
    library: ctypes.CDLL, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = native_build.find_compiler()
    assert compiler is not None
    path = native_build.library_path(compiler)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a library")
    built = []
    real = native_build.subprocess.run

    def counted(command: list[str], **options: object) -> object:
        built.append(command)
        return real(command, **options)

    monkeypatch.setattr(native_build.subprocess, "run", counted)
    first = Kernels()
    assert first.wait(300) is not None, first.error
    compilations = [c for c in built if "--version" not in c]
    assert len(compilations) == 1
    second = Kernels()
    assert second.wait(300) is not None
    assert [c for c in built if "--version" not in c] == compilations
    assert os.listdir(path.parent) == [path.name]
