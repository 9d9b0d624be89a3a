"""`deploy/setup.sh` with a real interpreter and, where it would install, a stand-in for pip."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

# Runs the real interpreter, except for what would make an environment, ask the index or install.
STAND_IN = """#!/usr/bin/env bash
case "$*" in
    *"print(\\"%d.%d\\""*) echo "$FAKE_VERSION" ;;
    *"import ensurepip"*) exit "$FAKE_NO_VENV" ;;
    *"-m venv"*) mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" ;;
    *"pip --version"*) ;;
    *"--report"*"--extra-index-url"*) cat cpu_index.json ;;
    *"--report"*) cat index.json ;;
    *"pip"*" install "*) printf '%s\\n' "$*" >>installed.txt ;;
    *"import torch"*) ;;
    *) exec "REAL" "$@" ;;
esac
"""


class Clone:
    """A copy of what set-up reads, in a folder with a space in its name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a clone"
        self.programs = folder / "programs"
        (self.folder / "deploy").mkdir(parents=True)
        self.programs.mkdir()
        for name in ("pyproject.toml", "constraints.txt", "deploy/setup.sh"):
            shutil.copy(REPOSITORY / name, self.folder / name)
        self.python = self.program("python3.11", STAND_IN.replace("REAL", sys.executable))
        self.program("nvidia-smi", "#!/bin/sh\nexit 9\n")

    def program(self, name: str, text: str) -> Path:
        path = self.programs / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def index_offers(self, version: str, *other: str, url: str = "https://host/torch.whl") -> str:
        names = [("torch", version), *((name, "1") for name in other)]
        report = [
            {"metadata": {"name": name, "version": number}, "download_info": {"url": url}}
            for name, number in names
        ]
        return json.dumps({"install": report})

    def setup(self, **environment: str) -> subprocess.CompletedProcess[str]:
        defaults = {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "PYTHON": str(self.python),
            "FAKE_VERSION": "3.11",
            "FAKE_NO_VENV": "0",
        }
        return subprocess.run(
            ["bash", str(self.folder / "deploy" / "setup.sh")],
            env=defaults | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def installed(self) -> list[str]:
        path = self.folder / "installed.txt"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def refused(run: subprocess.CompletedProcess[str]) -> str:
    """The one line in which set-up says what to do."""
    assert run.returncode == 1
    lines = run.stderr.splitlines()
    assert len(lines) == 1, run.stderr
    return lines[0]


def test_python_outside_the_range_is_refused_by_version(clone: Clone) -> None:
    line = refused(clone.setup(FAKE_VERSION="3.13"))
    assert "is Python 3.13" in line
    assert "3.11 or 3.12" in line


def test_missing_python_is_refused(clone: Clone) -> None:
    assert "does not run" in refused(clone.setup(PYTHON="/nowhere/python3.11"))


def test_no_fitting_python_on_the_path_names_the_install_command(clone: Clone) -> None:
    for name in ("python3.12", "python3.11"):
        clone.program(name, "#!/bin/sh\nexit 127\n")
    clone.program("python3", "#!/bin/sh\necho 3.10\n")
    line = refused(clone.setup(PYTHON=""))
    assert "python3 is 3.10" in line
    assert "apt install python3.11" in line


def test_a_python_on_the_path_that_does_not_run_is_passed_over(clone: Clone) -> None:
    clone.program("python3.12", "#!/bin/sh\nexit 127\n")
    (clone.folder / "index.json").write_text(clone.index_offers("2.13.0+cpu"))
    assert clone.setup(PYTHON="").returncode == 0


def test_missing_ensurepip_names_the_package(clone: Clone) -> None:
    assert "apt install python3-venv" in refused(clone.setup(FAKE_NO_VENV="1"))


def test_too_little_disk_states_how_much(clone: Clone) -> None:
    clone.program("df", "#!/bin/sh\necho Filesystem\necho /dev/x 1 1 1024000 1% /\n")
    line = refused(clone.setup())
    assert "1000 MB free" in line
    assert "3000 MB are needed" in line


def test_unknown_torch_names_the_choices(clone: Clone) -> None:
    assert "TORCH=auto, TORCH=cpu or TORCH=cuda" in refused(clone.setup(TORCH="rocm"))


def test_auto_prefers_the_cpu_build_that_pip_knows_and_states_megabytes(clone: Clone) -> None:
    (clone.folder / "index.json").write_text(clone.index_offers("2.13.0+cpu", "numpy"))
    run = clone.setup()
    assert run.returncode == 0, run.stderr
    assert "torch===2.13.0+cpu" in clone.installed()[0]
    assert "extra-index" not in clone.installed()[0]
    assert "420 MB (torch 190 MB, the rest 230 MB)" in run.stdout


def test_a_wheel_on_this_machine_is_no_download(clone: Clone) -> None:
    (clone.folder / "index.json").write_text(clone.index_offers("2.13.0+cpu", url="file:///wheels/torch.whl"))
    assert "(torch 0 MB" in clone.setup().stdout


def test_cpu_is_looked_for_on_torchs_own_index_before_gigabytes_are_taken(clone: Clone) -> None:
    (clone.folder / "index.json").write_text(clone.index_offers("2.13.0", "nvidia-cublas"))
    (clone.folder / "cpu_index.json").write_text(clone.index_offers("2.13.0+cpu"))
    run = clone.setup(TORCH="cpu")
    assert run.returncode == 0, run.stderr
    assert "torch===2.13.0+cpu" in clone.installed()[0]
    assert "--extra-index-url" in clone.installed()[0]
    assert "WARNING" not in run.stdout


def test_without_a_cpu_build_the_warning_states_gigabytes(clone: Clone) -> None:
    (clone.folder / "index.json").write_text(clone.index_offers("2.13.0", "nvidia-cublas"))
    run = clone.setup(TORCH="cpu")
    assert run.returncode == 0, run.stderr
    assert "WARNING" in run.stdout
    assert "GB to download" in run.stdout
    assert "torch===2.13.0 " in clone.installed()[0]


def test_auto_takes_cuda_when_nvidia_smi_answers(clone: Clone) -> None:
    clone.program("nvidia-smi", "#!/bin/sh\necho GPU 0\n")
    run = clone.setup()
    assert run.returncode == 0, run.stderr
    assert "torch===2.13.0 " in clone.installed()[0]


def test_a_second_run_does_nothing_until_something_changes(clone: Clone) -> None:
    (clone.folder / "index.json").write_text(clone.index_offers("2.13.0+cpu"))
    assert clone.setup().returncode == 0
    again = clone.setup()
    assert (again.returncode, again.stdout) == (0, "")
    assert clone.setup(TORCH="cpu").stdout == ""
    with (clone.folder / "constraints.txt").open("a") as file:
        file.write("# changed\n")
    assert clone.setup().returncode == 0
    assert len(clone.installed()) == 2


def test_an_index_without_torch_is_told_in_one_line(clone: Clone) -> None:
    assert "is the package index reachable" in refused(clone.setup())
