"""Log lines: their fields, the shared rotated file, and not a word of a prompt."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from online_draft.errors import ConfigError, RequestError, StoreError
from online_draft.logs import LogConfig, bound, set_up_logs

logger = logging.getLogger("online_draft.test")
SECRET = "the prompt nobody may read"


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger("online_draft")
    before = list(root.handlers), root.level, root.propagate
    yield
    for handler in root.handlers:
        if handler not in before[0]:
            handler.close()
    root.handlers[:], root.level, root.propagate = before


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_json_line_says_when_what_where_and_for_whom(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "service.log"
    set_up_logs(LogConfig(format="json", file=str(path)), "ingress", target="llama-1", code="0.1")
    with bound(request_id="req-1"), bound(tenant="acme"):
        logger.info("request %s\nended", 7, extra={"fields": {"status": 200, "drafter_version": "v3"}})
    logger.debug("too unimportant")
    logger.info("later")
    first, second = lines(path)
    assert first.pop("time").endswith("Z") and isinstance(first.pop("pid"), int)
    assert first == {
        "level": "info", "logger": "online_draft.test", "message": "request 7\nended", "process": "ingress",
        "target": "llama-1", "code": "0.1", "request_id": "req-1", "tenant": "acme", "status": 200,
        "drafter_version": "v3",
    }  # fmt: skip
    assert "request_id" not in second
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_word_of_a_prompt_comes_with_an_exception(tmp_path: Path, form: Any) -> None:
    path = tmp_path / "service.log"
    set_up_logs(LogConfig(format=form, file=str(path)), "replica")

    class RemoteError(Exception):
        traceback_str = f'Traceback:\n  File "engine.py", line 3, in step\nValueError: {SECRET}\n'

    def fail() -> None:
        try:
            raise ValueError(SECRET)
        except ValueError as error:
            raise RequestError(f"messages: {SECRET}") from error

    for action in (fail, lambda: (_ for _ in ()).throw(RemoteError(SECRET))):
        try:
            action() if action is fail else next(action())  # type: ignore[call-overload]
        except Exception as error:
            logger.exception("request %s failed", "req-1")
            logger.error("it was %s", error)
            logger.error(error)
    text = path.read_text()
    assert SECRET not in text
    assert (
        "RequestError" in text
        and "ValueError" in text
        and 'File "engine.py", line 3' in text.replace('\\"', '"')
    )
    assert "test_logs.py" in text and "in step" in text


def test_errors_of_the_service_keep_their_message(tmp_path: Path) -> None:
    path = tmp_path / "service.log"
    set_up_logs(LogConfig(format="json", file=str(path)), "control")
    try:
        raise StoreError("read counts: connection refused")
    except StoreError as error:
        logger.warning("nothing is decided now: %s", error, exc_info=True)
    (line,) = lines(path)
    assert line["message"].endswith("connection refused") and line["error"]["type"] == "StoreError"


def test_one_file_of_many_processes_is_rotated_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "service.log"
    code = (
        "import sys, logging\n"
        "from online_draft.logs import LogConfig, set_up_logs\n"
        "set_up_logs(LogConfig(format='json', file=sys.argv[1], max_bytes=20_000, backups=40), sys.argv[2])\n"
        "for i in range(400): logging.getLogger('online_draft').info('line %d', i)\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in ("one", "two", "three")
    ]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    files = [file for file in tmp_path.iterdir() if not file.name.endswith(".lock")]
    assert len(files) > 5 and all(file.stat().st_size < 21_000 for file in files)
    found = sorted((line["process"], line["message"]) for file in files for line in lines(file))
    assert found == sorted((name, f"line {i}") for name in ("one", "two", "three") for i in range(400))


def test_old_files_go(tmp_path: Path) -> None:
    path = tmp_path / "service.log"
    set_up_logs(LogConfig(format="text", file=str(path), max_bytes=1000, backups=2), "ingress")
    for index in range(200):
        logger.info("line %d", index)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        ".service.log.lock", "service.log", "service.log.1", "service.log.2",
    ]  # fmt: skip
    assert "line 199" in path.read_text()


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"level": "loud"}, "log.level"), ({"format": "xml"}, "log.format"), ({"max_bytes": 9}, "log.max_bytes"),
     ({"backups": 0}, "log.backups")],
)  # fmt: skip
def test_wrong_settings_name_themselves(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as error:
        LogConfig(**changes)
    assert error.value.field == field


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"log\.file"):
        set_up_logs(LogConfig(file=str(tmp_path / "file" / "service.log")), "ingress")


def test_a_file_that_is_away_for_a_while_fails_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, path = tmp_path / "state", tmp_path / "state" / "service.log"
    set_up_logs(LogConfig(format="text", file=str(path)), "replica")
    logger.info("before")
    state.rename(tmp_path / "away")
    state.touch()  # in its place, so that no file can be made below it
    logger.info("meanwhile")
    logger.info("still")
    assert [line.rpartition(": ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "meanwhile",
        "still",
    ]
    state.unlink()
    (tmp_path / "away").rename(state)
    logger.info("after")
    assert [line.rpartition(": ")[2] for line in path.read_text().splitlines()] == ["before", "after"]
