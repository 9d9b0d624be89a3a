"""`bench http`: its clients against a small server, its sums, its report."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from online_draft.bench.http import HttpOptions
from online_draft.bench.http.client import answer
from online_draft.bench.http.cpu_shares import spent
from online_draft.bench.http.encoding import encoding_us
from online_draft.bench.http.report import Runs, http_report, print_report
from online_draft.bench.load.clients import LoadRun
from online_draft.errors import ConfigError

EVENTS = b'data: {"text":"a"}\n\ndata: {"usage":{"completion_tokens":7}}\n\ndata: [DONE]\n\n'


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    """Streams seven tokens to whoever asks for `good`, half of that and an end to others."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                asked = b""
                while b'"end"' not in asked:
                    asked += connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + EVENTS[:20])
                connection.sendall(EVENTS[20 : None if b"good" in asked else 40])

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listening.getsockname()
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(5)


def test_clients_count_tokens_events_and_failures(server: tuple[str, int]) -> None:
    bodies = [json.dumps({"prompt": kind, "z": "end"}) for kind in ("good", "bad", "good")]
    found = answer({"host": server[0], "port": server[1], "bodies": bodies, "clients": 2})
    assert (found["tokens"], found["failed"]) == (14, 1) and found["events"] >= 6
    assert len(found["ttft_s"]) == 3 and 0 < max(found["ttft_s"]) <= found["seconds"]


def test_the_busiest_thread_of_a_replica_is_its_engine() -> None:
    before = {("replica", 1, 1): 1.0, ("replica", 1, 2): 5.0, ("ingress", 3, 3): 1.0}
    after = {("replica", 1, 1): 1.5, ("replica", 1, 2): 8.0, ("ingress", 3, 3): 2.0, ("others", 4, 4): 0.25}
    assert spent(before, after) == {
        "engine": 3.0, "channel": 0.5, "ingress": 1.0, "proxy": 0.0, "redis": 0.0, "others": 0.25,
    }  # fmt: skip


def test_the_report_pairs_repeats_and_prints() -> None:
    runs = Runs()
    for engine, http in ((2.0, 2.5), (1.0, 1.25)):
        asked: dict[str, Any] = {"seconds": http, "tokens": 100, "events": 50, "failed": 0, "cpu_s": 0.1}
        runs.add(LoadRun(tokens=100, seconds=engine), asked, {"engine": 0.5})
    runs.ttft_engine, runs.ttft_http = [0.010, 0.020, 0.030], [0.012, 0.023, 0.034]
    report = http_report(HttpOptions(), "embedded", runs, 10.0)
    assert report["ratio"] == 0.8 and report["ttft_added_ms_p50"] == 3.0
    assert (report["failed"], report["changed"]) == (0, 0)
    assert report["profile"]["cpu_ms_per_1000_tokens"] == {"engine": 5000.0, "client": 1000.0}
    assert report["profile"]["encoding_ms_per_1000_tokens"] == 5.0
    console = Console(record=True, width=120)
    print_report(report, console)
    assert "0.800 of the engine's rate" in console.export_text()


def test_an_event_costs_something() -> None:
    assert 0 < encoding_us("embedded") < 10_000


def test_options_name_what_is_wrong() -> None:
    for options, field in (
        (HttpOptions(batch=0), "batch"),
        (HttpOptions(cores=(9999,)), "cores"),
        (HttpOptions(kernels="auto"), "kernels"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError) as wrong:
            options.check()
        assert wrong.value.field == field
