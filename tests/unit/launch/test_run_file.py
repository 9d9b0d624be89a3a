"""The run file finds what runs and ends only that."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from online_draft.errors import ConfigError
from online_draft.launch.ports import check_port, free_port
from online_draft.launch.processes import descendants, start_ticks
from online_draft.launch.run_file import DEMO_DIR, RunFile, end_system, find_run_files, require_run_file


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def recorded(state_dir: Path, pid: int, helpers: dict[str, int]) -> RunFile:
    started = {str(p): start_ticks(p) or -1 for p in (pid, *helpers.values())}
    return RunFile(
        pid=pid, host="0.0.0.0", port=1, model="m", target="t", fingerprint="f", admin_key="k", redis_url="r",
        state_dir=str(state_dir), temp_dir=str(state_dir / "temp"), helpers=helpers, started=started,
    )  # fmt: skip


def test_down_ends_the_recorded_processes_and_no_other(tmp_path: Path) -> None:
    main, helper, stranger = sleeper(), sleeper(), sleeper()
    try:
        run = recorded(tmp_path, main.pid, {"redis": helper.pid, "gone": stranger.pid})
        run.started[str(stranger.pid)] += 1
        path = run.write()
        assert path.stat().st_mode & 0o777 == 0o600
        assert find_run_files(tmp_path) == [run]
        end_system(run, grace_s=0.5)
        main.wait(10)
        helper.wait(10)
        assert stranger.poll() is None
        assert find_run_files(tmp_path) == [] and not path.exists()
    finally:
        for process in (main, helper, stranger):
            process.kill()
            process.wait()


def test_a_dead_systems_file_is_removed_and_the_demos_is_found(tmp_path: Path) -> None:
    main = sleeper()
    try:
        run = recorded(tmp_path / DEMO_DIR, main.pid, {})
        run.write()
        stale = replace(run, state_dir=str(tmp_path), started={str(main.pid): 1})
        stale_path = stale.write()
        assert find_run_files(tmp_path) == [run] and not stale_path.exists()
        assert require_run_file(tmp_path).url == "http://127.0.0.1:1"
    finally:
        main.kill()
        main.wait()
    with pytest.raises(ConfigError, match="no system runs"):
        require_run_file(tmp_path)


def test_unreadable_run_files_count_as_none(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert find_run_files(tmp_path) == []


def test_a_child_is_a_descendant_until_it_ends() -> None:
    child = sleeper()
    assert child.pid in descendants(os.getpid())
    child.kill()
    child.wait()
    assert child.pid not in descendants(os.getpid())
    assert start_ticks(child.pid) is None


def test_ports_and_hosts_that_cannot_be_had_are_named() -> None:
    import socket

    port = free_port()
    check_port("127.0.0.1", port)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(ConfigError, match=r"^port: .* is taken"):
            check_port("127.0.0.1", holder.getsockname()[1])
    with pytest.raises(ConfigError, match=r"^host: "):
        check_port("203.0.113.7", port)
