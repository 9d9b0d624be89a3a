"""Who takes webhooks: a real HTTP server with a script of answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HANG = 0


@dataclass
class Receiver:
    """`taken` are the bodies that it answered with 200, `asked` all requests (headers, body)."""

    url: str
    answers: list[int]
    asked: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    taken: list[dict[str, Any]] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)


@contextmanager
def receiving(*answers: int, path: str = "/hook") -> Iterator[Receiver]:
    """One that gives these answers, one a request, and then 200. `HANG` answers when it is released."""
    receiver = Receiver("", list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.asked.append((dict(self.headers), body))
            status = receiver.answers.pop(0) if receiver.answers else 200
            if status == HANG:
                receiver.release.wait(30)
                self.close_connection = True
                return
            if status == 200:
                receiver.taken.append(json.loads(body))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}{path}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.release.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
