"""Every check of the doctor against the real thing: real ports, folders, binaries, packages."""

from __future__ import annotations

import importlib.metadata
import io
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

from online_draft import doctor
from online_draft.models.native import build
from online_draft.redis_server import PrivateRedis
from online_draft.settings import Settings


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server


def test_this_interpreter_is_in_range() -> None:
    assert doctor.check_python().status == "ok"


@pytest.mark.parametrize("version", [(3, 10), (3, 13)])
def test_an_interpreter_outside_the_range_fails_with_the_command_to_run(version: tuple[int, int]) -> None:
    finding = doctor.check_python(version)
    assert finding.status == "fail"
    assert "make setup PYTHON=" in finding.remedy


def test_installed_packages_are_in_range() -> None:
    finding = doctor.check_packages()
    assert finding.status == "ok", finding.detail
    assert f"torch {importlib.metadata.version('torch')}" in finding.detail


def test_a_package_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "needy-1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(
        "Metadata-Version: 2.1\nName: needy\nVersion: 1\n"
        "Requires-Dist: no-such-package-anywhere\nRequires-Dist: rich<1\n"
        "Requires-Dist: also-not-there; extra == 'more'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    finding = doctor.check_packages("needy")
    assert finding.status == "fail"
    assert "no-such-package-anywhere missing" in finding.detail
    assert f"rich {importlib.metadata.version('rich')} is not <1" in finding.detail
    assert "also-not-there" not in finding.detail


def test_an_uninstalled_distribution_fails() -> None:
    assert doctor.check_packages("no-such-package-anywhere").status == "fail"


def test_torch_starts_and_says_its_build() -> None:
    finding = doctor.check_torch()
    assert finding.status in ("ok", "warn")
    assert importlib.metadata.version("torch") in finding.detail


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_that_is_set_but_not_there_fails() -> None:
    finding = doctor.check_torch("cuda")
    assert finding.status == "fail"
    assert "TORCH=cuda" in finding.remedy or "nvidia-smi" in finding.remedy


def test_kernels_are_built_or_can_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = build.find_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler on this machine")
    monkeypatch.setenv("ONLINE_DRAFT_CACHE", str(tmp_path))
    finding = doctor.check_kernels()
    assert finding.status == "ok"
    assert f"first start builds them with {compiler}" in finding.detail
    assert not list(tmp_path.iterdir()), "the doctor builds nothing"
    path = build.library_path(compiler)
    path.parent.mkdir()
    path.touch()
    assert str(path) in doctor.check_kernels().detail
    monkeypatch.setenv("CXX", "no-such-compiler")
    finding = doctor.check_kernels()
    assert finding.status == "ok", "what is built needs no compiler"
    assert str(path) in finding.detail
    path.parent.chmod(0o777)
    finding = doctor.check_kernels()
    assert finding.status == "warn" and str(path.parent) in finding.detail
    assert "ONLINE_DRAFT_CACHE" in finding.remedy
    monkeypatch.setenv("CXX", compiler)
    assert doctor.check_kernels() == finding, "what could be swapped is not loaded"
    path.parent.chmod(0o700)
    path.chmod(0o666)
    assert "first start builds" in doctor.check_kernels().detail


def test_without_a_compiler_decoding_goes_on_in_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ONLINE_DRAFT_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    finding = doctor.check_kernels()
    assert finding.status == "warn"
    assert "CXX=no-such-compiler" in finding.detail and "torch" in finding.detail
    assert "g++" in finding.remedy


def test_a_cache_that_cannot_be_written_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    if build.find_compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    monkeypatch.setenv("ONLINE_DRAFT_CACHE", "/proc/self/nowhere")
    finding = doctor.check_kernels()
    assert finding.status == "warn"
    assert "ONLINE_DRAFT_CACHE" in finding.remedy


@pytest.mark.parametrize("setting", [("cuda",), ("cpu", "bfloat16"), ("cpu", "float32", "off")])
def test_kernels_that_are_not_wanted_need_no_compiler(
    setting: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert doctor.check_kernels(*setting).status == "ok"
    monkeypatch.setenv("ONLINE_DRAFT_KERNELS", "off")
    assert "ONLINE_DRAFT_KERNELS" in doctor.check_kernels().detail


def test_a_redis_server_binary_is_found() -> None:
    finding = doctor.check_redis()
    assert finding.status == "ok", finding.detail
    assert "redis-server" in finding.detail


def test_a_running_redis_is_asked_for_its_version(tmp_path: Path) -> None:
    with PrivateRedis(tmp_path) as server:
        finding = doctor.check_redis(server.url)
    assert finding.status == "ok", finding.detail
    assert finding.detail.split(".")[0].isdigit()


def test_a_redis_that_does_not_answer_fails(tmp_path: Path) -> None:
    finding = doctor.check_redis(f"unix://{tmp_path}/nobody.sock")
    assert finding.status == "fail"
    assert "nobody.sock" in finding.detail


def test_ray_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    finding = doctor.check_ray()
    assert finding.status == "ok"
    assert importlib.metadata.version("ray") in finding.detail


def test_token_authentication_in_the_environment_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    finding = doctor.check_ray()
    assert finding.status == "warn"
    assert "unset RAY_AUTH_MODE" in finding.remedy


def test_disk_is_measured_where_the_folder_will_be(tmp_path: Path) -> None:
    finding = doctor.check_disk(tmp_path / "not" / "there" / "yet")
    assert finding.detail.endswith(f"MB free at {tmp_path}")
    roomy = shutil.disk_usage(tmp_path).free > 2**20 * doctor.DISK_WANTED_MB
    assert finding.status == "ok" if roomy else finding.remedy


def test_a_small_shared_memory_is_a_warning_not_a_failure(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free // 2**20
    assert doctor.check_shared_memory(100, tmp_path / "missing").status == "warn"
    assert doctor.check_shared_memory(2 * free + 1, tmp_path).status == "warn"
    assert doctor.check_shared_memory(free // 2, tmp_path).status == "ok"


def test_a_free_port_is_free_and_a_taken_one_fails(listener: socket.socket) -> None:
    host, port = listener.getsockname()
    finding = doctor.check_port(host, port)
    assert finding.status == "fail"
    assert str(port) in finding.detail
    assert "--port" in finding.remedy
    assert doctor.check_port(host, port, {(host, port)}).status == "ok"
    listener.close()
    assert doctor.check_port(host, port).status == "ok"


def test_a_host_that_is_not_here_fails() -> None:
    finding = doctor.check_port("192.0.2.1", 8000)
    assert finding.status == "fail"
    assert "--host" in finding.remedy


def test_a_writable_folder_is_fine_before_it_exists(tmp_path: Path) -> None:
    finding = doctor.check_writable(tmp_path / "state")
    assert finding.status == "ok"
    assert "will be made" in finding.detail
    assert not (tmp_path / "state").exists()


def test_a_folder_that_cannot_be_written_fails(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        folder = Path("/proc/self")  # not even root makes files here
    else:
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o500)
    finding = doctor.check_writable(folder)
    assert finding.status == "fail"
    assert "state_dir" in finding.remedy


def test_a_missing_embedded_model_fails_with_the_reason(tmp_path: Path) -> None:
    finding = doctor.check_models(tmp_path / "target", tmp_path / "drafters")
    assert finding.status == "fail"
    assert str(tmp_path) in finding.detail


def test_every_finding_that_is_not_fine_says_what_to_do(tmp_path: Path) -> None:
    findings = [
        doctor.check_python((2, 7)),
        doctor.check_packages("no-such-package-anywhere"),
        doctor.check_redis(f"unix://{tmp_path}/nobody.sock"),
        doctor.check_shared_memory(1, tmp_path / "missing"),
        doctor.check_models(tmp_path, tmp_path),
    ]
    assert all(finding.status != "ok" and finding.remedy for finding in findings)
    assert sys.executable in findings[0].detail


def test_the_table_tells_what_fails_and_the_exit_code_says_so(
    tmp_path: Path, listener: socket.socket
) -> None:
    host, port = listener.getsockname()
    settings = Settings(host=host, port=port, state_dir=tmp_path / "state")
    console = Console(record=True, width=200, file=io.StringIO())
    assert doctor.run(settings, console) == 1
    text = console.export_text()
    assert f"{port} on {host} is taken" in text
    assert "state (will be made)" in text
    assert not (tmp_path / "state").exists()
