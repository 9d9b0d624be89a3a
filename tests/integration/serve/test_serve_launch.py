"""Starting, failing to start, being interrupted, being killed: no process is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from online_draft.launch.ports import free_port
from online_draft.launch.processes import adopt_orphans, command, descendants, reap
from online_draft.launch.run_file import end_system, read_run_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """Orphans become our children, so that none can hide."""
    before = set(descendants(os.getpid()))
    adopt_orphans()
    try:
        yield
        left = [pid for pid in descendants(os.getpid()) if pid not in before]
        deadline = time.monotonic() + 5
        while left and time.monotonic() < deadline:
            time.sleep(0.1)
            left = [pid for pid in descendants(os.getpid()) if pid not in before]
        assert [command(pid) for pid in left] == []
    finally:
        adopt_orphans(False)


def serve(tmp_path: Path, target: Path, *more: str) -> subprocess.Popen[str]:
    flags = {"--target": str(target), "--state-dir": str(tmp_path / "state"), "--port": "0", "--threads": "1"}
    words = [word for flag in flags.items() for word in flag]
    quiet = ["--set", "learner.mode=off", "--set", "control.enabled=false"]
    return subprocess.Popen(
        [sys.executable, "-m", "online_draft", "serve", *words, *quiet, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_a_taken_port_is_named_at_once(tmp_path: Path, tiny: Path) -> None:
    import socket

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        code, out, err = ended(serve(tmp_path, tiny, "--port", str(holder.getsockname()[1])))
    assert code == 2 and "http://" not in out
    assert err.startswith("error: port: ") and "is taken" in err


def test_a_missing_target_is_named_at_once(tmp_path: Path) -> None:
    code, out, err = ended(serve(tmp_path, tmp_path / "nowhere"))
    assert code == 2 and out == ""
    assert err.startswith("error: --target ") and "no such directory" in err


def test_a_deployment_that_fails_ends_the_command_with_its_reason(tmp_path: Path, tiny: Path) -> None:
    code, _out, err = ended(serve(tmp_path, tiny, "--drafter", "nobody"))
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert "did not come up" in err and "drafter: 'nobody'" in err
    assert not (tmp_path / "state" / "run.json").exists()


@pytest.mark.parametrize("line", ["starting a private ray", "starting 1 replica"])
def test_ctrl_c_while_starting_leaves_nothing(tmp_path: Path, tiny: Path, line: str) -> None:
    process = serve(tmp_path, tiny)
    assert process.stdout is not None
    for shown in process.stdout:
        if shown.startswith(line):
            break
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGINT)
    code, out, _err = ended(process)
    assert code == 0 and out.strip().endswith("ended")


def test_sigterm_lets_what_runs_finish(tmp_path: Path, tiny: Path) -> None:
    process = serve(tmp_path, tiny, "--set", "engine.kernels=off", "--set", "engine.ngram=false")
    assert process.stdout is not None
    for shown in process.stdout:
        if shown.startswith("serving"):
            break
    run = read_run_file(tmp_path / "state")
    assert run is not None
    asked = {"model": "tiny", "prompt": "once", "max_tokens": 900, "ignore_eos": True, "stream": True}
    url = f"{run.url}/v1/completions"
    with httpx.stream("POST", url, json=asked, timeout=60, trust_env=False) as response:
        lines = (line for line in response.iter_lines() if line)
        first = next(lines)
        process.terminate()
        events = [first, *lines]
    assert events.pop() == "data: [DONE]"
    assert json.loads(events[-1].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    code, out, _err = ended(process)
    assert code == 0 and out.strip().endswith("ended")


def test_down_ends_what_a_killed_main_process_left(tmp_path: Path, tiny: Path) -> None:
    port = free_port()
    process = serve(tmp_path, tiny, "--port", str(port))
    assert process.stdout is not None
    for shown in process.stdout:
        if shown.startswith("serving"):
            break
    run = read_run_file(tmp_path / "state")
    assert run is not None and run.port == port and run.pid == process.pid
    again, _out, err = ended(serve(tmp_path, tiny))
    assert again == 2 and "state_dir" in err
    process.kill()
    process.communicate(timeout=30)
    end_system(run)
    reap(run.helpers.values())
    assert read_run_file(tmp_path / "state") is None
