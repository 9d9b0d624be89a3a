"""Clients of a streaming completions endpoint, as light as they come. Standard library only; run as a script.

One line of JSON on stdin (`host`, `port`, `bodies`, `clients`) is one run: so many requests are under way,
the next one enters when one has ended. One line on stdout answers it: `seconds`, `tokens`, `events`,
`failed`, this process's seconds of CPU (`cpu_s`), and each request's time to its first event (`ttft_s`).
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import sys
import time
from collections import deque
from typing import Any

_TAIL_BYTES = 4096
_READ_BYTES = 1 << 16
_TOKENS = re.compile(rb'"completion_tokens":\s?(\d+)')
_EVENT = b"data: "


class Request:
    """One request on a connection of its own, from its first byte to the connection's end."""

    def __init__(self, address: tuple[str, int], body: str) -> None:
        raw = body.encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
        )
        self.began = time.perf_counter()
        self.first: float | None = None
        self.events = 0
        self._tail = b""
        self._ok = False
        self.socket = socket.create_connection(address, timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(head.encode() + raw)

    def read(self) -> bool:
        """Take in what is there; whether more will come."""
        data = self.socket.recv(_READ_BYTES)
        if not data:
            self.socket.close()
            return False
        if not self._tail:
            self._ok = data.startswith(b"HTTP/1.1 200")
        found = data.count(_EVENT)
        if found and self.first is None:
            self.first = time.perf_counter() - self.began
        self.events += found
        self._tail = (self._tail + data)[-_TAIL_BYTES:]
        return True

    @property
    def tokens(self) -> int | None:
        """Tokens of the answer; None when it failed."""
        said = _TOKENS.findall(self._tail)
        whole = self._ok and said and b"data: [DONE]" in self._tail and b'"error"' not in self._tail
        return int(said[-1]) if whole else None


def answer(order: dict[str, Any]) -> dict[str, Any]:
    """Send all bodies; what came back."""
    address = (str(order["host"]), int(order["port"]))
    pending, ended = deque(order["bodies"]), []
    begun, cpu = time.perf_counter(), time.process_time()
    with selectors.DefaultSelector() as selector:

        def enter() -> None:
            request = Request(address, pending.popleft())
            selector.register(request.socket, selectors.EVENT_READ, request)

        for _ in range(min(int(order["clients"]), len(pending))):
            enter()
        while selector.get_map():
            for key, _ in selector.select(120):
                request: Request = key.data
                if not request.read():
                    selector.unregister(key.fileobj)
                    ended.append(request)
                    if pending:
                        enter()
    tokens = [request.tokens for request in ended]
    return {
        "seconds": time.perf_counter() - begun,
        "cpu_s": time.process_time() - cpu,
        "tokens": sum(count for count in tokens if count is not None),
        "events": sum(request.events for request in ended),
        "failed": sum(count is None for count in tokens),
        "ttft_s": [request.first for request in ended if request.first is not None],
    }


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
